"""What training minimises: images near their texts, places near their words, two sensors' views near each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsvlm.sensors import SENSORS

if TYPE_CHECKING:
    from rsvlm.encoder.clip import SpectralCLIP
    from rsvlm.sensors import Band
    from rsvlm.training.batches import Batch, View
    from rsvlm.training.config import TrainingConfig
    from rsvlm.training.words import TextTable

MAX_SCALE = 100.0  # the ceiling CLIP itself puts on the learned temperature
DENSE_SCALE = 50.0  # 1 / the temperature maps are read with (rsvlm.findings), so fixed
SIGMOID_BIAS = -10.0  # SigLIP's start (Zhai et al. 2023, arXiv:2303.15343)
TOGETHER = (
    32 if not torch.cuda.is_available() else 4096
)  # images a forward pass: what a CPU's cache holds, twice as fast
STRIDE = 2  # of the dense features that a step looks at, drawn anew each time


def contrastive_loss(images: Tensor, texts: Tensor, right: Tensor, scale: Tensor) -> Tensor:
    """Softmax contrastive loss of (N, D) and (M, D) unit vectors; `right` (N, M) marks which go together.

    A text that is right for no image of the batch only competes.
    """
    logits, targets = scale * images @ texts.T, right.float()
    by_image = functional.cross_entropy(logits, targets / targets.sum(1, keepdim=True))
    owned = right.any(0)
    by_text = functional.cross_entropy(logits.T[owned], (targets / targets.sum(0).clamp(min=1)).T[owned])
    loss: Tensor = (by_image + by_text) / 2
    return loss


def sigmoid_loss(images: Tensor, texts: Tensor, right: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Pairwise sigmoid loss (Zhai et al. 2023, arXiv:2303.15343), summed over texts and averaged over images."""
    logits = scale * images @ texts.T + bias
    loss: Tensor = -functional.logsigmoid(torch.where(right, logits, -logits)).sum(1).mean()
    return loss


def dense_loss(vectors: Tensor, words: Tensor, texts: Tensor, right: Tensor, *, balance: float = 0.0) -> Tensor:
    """Negative log of the probability that a place's right texts have together.

    Args:
        vectors: (N, D, h, w) of places, any length.
        words: (N, h, w) positions in `right`, -1 where none is known.
        texts: (M, D) unit vectors.
        right: (G, M) bool, which texts are right for each word.
        balance: 0 for every place alike, 1 for every word of the batch alike, however many places it has.

    Returns:
        The mean over known places; 0 where there are none.
    """
    cosine = torch.einsum("ndhw,md->nhwm", functional.normalize(vectors, dim=1), texts)
    known = words >= 0
    logits = DENSE_SCALE * cosine[known]
    seen = words[known]
    losses = logits.logsumexp(1) - logits.masked_fill(~right[seen], -torch.inf).logsumexp(1)
    weights = torch.bincount(seen, minlength=len(right)).clamp(min=1).float().pow(-balance)[seen]
    loss: Tensor = (losses * weights).sum() / weights.sum().clamp(min=1e-9)
    return loss


class Objective(nn.Module):
    """The encoder's modules and everything that is minimised; one forward pass is one batch of one source."""

    def __init__(self, model: SpectralCLIP, config: TrainingConfig, texts: TextTable, common: list[str]) -> None:
        super().__init__()
        self.model, self.config, self.texts = model, config, texts
        self.common = [texts.index[word] for word in common]
        self.bias = nn.Parameter(torch.tensor(SIGMOID_BIAS), requires_grad=config.loss == "sigmoid")

    @property
    def scale(self) -> Tensor:
        """The inverse temperature of the contrastive loss."""
        if self.config.fixed_scale:
            return torch.tensor(self.config.fixed_scale)
        scale: Tensor = self.model.clip.logit_scale.exp().clamp(max=MAX_SCALE)
        return scale

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The batch's losses by name, each already weighted."""
        device = self.texts.features.device
        texts = self._sentences(self.texts(batch.texts))
        right = batch.right.to(device)
        if batch.words is None:
            (view,) = batch.views
            images = functional.normalize(self._image(view).float(), dim=1)
            return self._captions(images, texts, right) | self._names(images, batch)
        words = batch.words.to(device)
        if len(batch.views) == 1:
            return {"dense": self.config.dense_weight * self._places(batch.views[0], words, texts, right)}
        return self._changes(batch.views, words, texts, right)

    def _captions(self, images: Tensor, texts: Tensor, right: Tensor) -> dict[str, Tensor]:
        if self.config.loss == "sigmoid":
            return {"contrastive": sigmoid_loss(images, texts, right, self.scale, self.bias)}
        return {"contrastive": contrastive_loss(images, texts, right, self.scale)}

    def _names(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """How well each image finds its scene's name among all; as captions, names hide what sets images apart."""
        if not batch.names or batch.named is None or (batch.named < 0).all():
            return {}
        names = self._sentences(self.texts(batch.names))
        logits = self.scale * images @ names.T
        found = functional.cross_entropy(logits, batch.named.to(logits.device), ignore_index=-1)
        return {"names": self.config.names_weight * found}

    def kept_words(self) -> Tensor:
        """How far common words moved from where the sentence encoder has them, in squared cosine between pairs."""
        chosen = torch.randperm(len(self.common))[:256].tolist()
        before = functional.normalize(self.texts.features[[self.common[i] for i in chosen]], dim=1)
        after = self._sentences(before)
        loss: Tensor = self.config.words_weight * ((after @ after.T - before @ before.T) ** 2).mean() * len(chosen)
        return loss

    def _sentences(self, features: Tensor) -> Tensor:
        return functional.normalize(self.model.clip.text.proj(features), dim=1)

    def _autocast(self) -> torch.autocast:
        device = self.texts.features.device.type
        return torch.autocast(device, torch.bfloat16, enabled=self.config.bfloat16)

    def _pixels(self, view: View) -> Tensor:
        return view.pixels.to(self.texts.features.device)

    def _image(self, view: View) -> Tensor:
        parts = [self._part(pixels, view.bands) for pixels in torch.split(self._pixels(view), TOGETHER)]
        return torch.cat(parts)

    def _part(self, pixels: Tensor, bands: tuple[Band, ...]) -> Tensor:
        stems = self.model.stem(pixels, bands)
        if self.config.frozen_stages and bands == SENSORS["rgb"].bands:
            stems = stems.detach()  # nothing that is trained lies before the frozen stages
        with self._autocast():
            features: Tensor = self.model.clip.encode_image(stems.contiguous(memory_format=torch.channels_last))
        return features

    def _places(self, view: View, words: Tensor, texts: Tensor, right: Tensor) -> Tensor:
        with self._autocast():
            decoded, coarse = self.model.decode(self._pixels(view), view.bands)
        return self._dense(decoded.float(), coarse.float(), words, texts, right)

    def _dense(self, decoded: Tensor, coarse: Tensor | None, words: Tensor, texts: Tensor, right: Tensor) -> Tensor:
        """Compare a random quarter of the places, so that vectors of 384 numbers stay few."""
        assert self.model.dense is not None
        row, col = torch.randint(STRIDE, (2,)).tolist()
        finest = words.shape[-1] // decoded.shape[-1]
        seen = words[:, row * finest :: STRIDE * finest, col * finest :: STRIDE * finest]
        part = decoded[:, :, row::STRIDE, col::STRIDE]
        if coarse is None:
            return dense_loss(self.model.dense.project_change(part), seen, texts, right)
        whole = functional.interpolate(coarse, decoded.shape[-2:], mode="bilinear", align_corners=False)
        vectors = self.model.dense.project(part) + whole[:, :, row::STRIDE, col::STRIDE]
        return dense_loss(vectors, seen, texts, right, balance=self.config.balance)

    def _changes(self, views: tuple[View, ...], words: Tensor, texts: Tensor, right: Tensor) -> dict[str, Tensor]:
        """Change by each sensor, and how near the sensors' views of a date are."""
        assert self.model.dense is not None
        losses, seen = [], []
        for before, after in zip(views[::2], views[1::2], strict=True):
            with self._autocast():
                both = torch.cat([self._pixels(before), self._pixels(after)])
                decoded, coarse = self.model.decode(both, before.bands)
                compared = self.model.dense.change(*decoded.chunk(2))
            losses.append(self._dense(compared.float(), None, words, texts, right))
            seen.append(functional.normalize(coarse.float().mean((2, 3)), dim=1))
        found = {"change": self.config.change_weight * torch.stack(losses).mean()}
        if len(seen) > 1:
            same = torch.eye(len(words), dtype=torch.bool, device=words.device).repeat(2, 2)  # one place, either date
            pairs = [contrastive_loss(seen[0], other, same, self.scale) for other in seen[1:]]
            found["pairs"] = self.config.pairs_weight * torch.stack(pairs).mean()
        return found
