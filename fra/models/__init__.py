"""Network pieces that two or more files use.

Letters in all shapes: B images, K facial regions, C encoder channels, D embedding channels, H x W image pixels,
h x w positions of the encoder's last map, P = h * w.
"""
