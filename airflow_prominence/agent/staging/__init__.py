"""What comes to a job before it runs and goes from it afterwards: artifacts and outputs."""
