"""What nights of windowed features cost, three ways, and what a point-in-time join costs."""
