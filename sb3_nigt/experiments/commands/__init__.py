"""What can be typed after ``sb3-nigt``. Nothing here is imported that takes time, so that a typo is answered at once."""
