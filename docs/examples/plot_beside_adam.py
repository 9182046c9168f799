"""
A first training, beside Adam
=============================
"""

print(1)
