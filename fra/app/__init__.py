"""`fra app`: a page on this machine where a dropped photo shows its faces, their regions and what tasks say."""
