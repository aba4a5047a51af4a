"""What a month of nights of windowed features costs, three ways."""
