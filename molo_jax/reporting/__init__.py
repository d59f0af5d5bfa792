"""What people see of trainings and evaluations: pictures, curves, the report."""
