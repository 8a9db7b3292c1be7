"""How `fra.faces.synthetic` draws: person → shape → canvas, skin, features, hair, extras, scene."""
