"""How the released FRA calls its parameters."""


def official_name(name: str) -> str:
    """Our parameter name as the released code calls it, relative to the neck or to a predictor."""
    for ours, theirs in {
        "face_projector.": "proj.mlp.",
        "region_projector.": "proj_obj.mlp.",
        "region_head.pixel_projector.": "proj_pixel.mlp.",
        "region_head.decoder.input.": "proj_attn.input_proj.",
        "region_head.decoder.queries.": "proj_attn.query_embed.",
        "region_head.decoder.mask_mlp.": "proj_attn.mask_embed.layers.",
        "region_head.decoder.layers.": "proj_attn.transformer.decoder.layers.",
        "region_head.decoder.norm.": "proj_attn.transformer.decoder.norm.",
        "face_predictor.": "mlp.",
        "region_predictor.": "mlp.",
    }.items():
        name = theirs + name.removeprefix(ours) if name.startswith(ours) else name
    if ".mlp." in name or name.startswith("mlp."):
        return name.replace("first.", "0.").replace("norm.", "1.").replace("last.", "3.")
    name = name.replace(".self_attention.", ".self_attn.").replace(".cross_attention.", ".multihead_attn.")
    for index in range(3):
        name = name.replace(f".norms.{index}.", f".norm{index + 1}.")
    return name.replace(".first.", ".linear1.").replace(".last.", ".linear2.")
