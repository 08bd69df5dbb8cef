"""The network that `train target` trains: a target, and heads that are thrown away afterwards."""

from torch import nn

from specvla_ros.openvla.model import OpenVLA
from specvla_ros.training.lora import add_lora
from specvla_ros.training.target_loss import StateHeads


class TargetNetwork(nn.Module):
    """
    A target and its state heads.

    state_size: numbers of the privileged state, S; instructions: how many; freeze_vision: leave
    the vision towers as they are; vision_only: leave everything else. lora: rank of adapters that
    alone are trained; 0 = there are none.
    """

    def __init__(
        self, model: OpenVLA, state_size: int, instructions: int, freeze_vision: bool,
        vision_only: bool, lora: int = 0,
    ) -> None:
        super().__init__()
        self.model = model.train()
        config = model.config
        self.heads = StateHeads(config.n_patches * config.vision_config.feature_size,
                                config.hidden_size, state_size, instructions).to(model.device)
        if model.device.type == 'cpu':
            # The fused attention's backward takes 40 % of a step on a CPU, the plain one's 8 %.
            for part in (model.language_model, model.vision.dino, model.vision.siglip):
                if part is not None:
                    part.set_attn_implementation('eager')
        if lora:
            add_lora(model, lora)
            return
        model.requires_grad_(not vision_only)
        model.vision.requires_grad_(not freeze_vision)

    def blocks(self) -> list[nn.Module]:
        """
        Return the parts whose `forward` is all that computes with their weights: the layers.

        Not the last one of the Llama, which `hidden_at` computes at some positions alone.
        """
        vision, llama = self.model.vision, self.model.language_model
        siglip = vision.siglip.encoder.layers if vision.siglip else ()
        return [*vision.dino.encoder.layer, *siglip, *llama.layers[:-1]]
