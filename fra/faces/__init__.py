"""What a face image is.

Conventions, written down once and used everywhere:

- Images are RGB. For computing they are float tensors (3, H, W) in [0, 1]; for storage uint8 tensors (3, H, W).
- Boxes are x1, y1, x2, y2 and points are (x, y), in pixels of the image they belong to. The centre of the first
  pixel lies at (0, 0), so an image of width W reaches from -0.5 to W - 0.5.
- Left and right are the subject's. Published point orders (five detector points, 68, 98) keep their order.
"""

MARGIN = 0.25
"""A face's crop is a square of its box's longer side times 1 + MARGIN, unless asked otherwise (ours)."""
