"""What is drawn: Python computes every number of a drawing, the template only draws."""
