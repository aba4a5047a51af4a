"""Rolling a release out: steps, what each is judged by, and the controller that moves it on or returns it."""
