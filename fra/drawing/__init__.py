"""How `fra.drawing.drawn_face` draws: person → shape → canvas, skin, features, hair, extras, scene."""
