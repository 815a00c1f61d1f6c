"""Precisions by name: what each family has, how products are rounded, and what a device cannot do is said."""

import pytest
import torch
from torch.nn import functional

from repro.backbones import precision
from repro.backbones.config import Precision, precision_change, read_precision
from repro.backbones.precision import autocast, explain_precision, fp32_products
from repro.backbones.registry import backbone_names, load_backbone
from repro.core.errors import UsageError

CPU = torch.device("cpu")


def test_published_rows_of_svd_compute_as_published_and_everything_else_in_fp32() -> None:
    published = {name for name in backbone_names() if read_precision(load_backbone(name)) == "published"}
    assert published == {"svd", "svd_xt", "sdv2"}
    assert all(read_precision(load_backbone(name)) == "fp32" for name in set(backbone_names()) - published)


@pytest.mark.parametrize(
    ("name", "wanted", "had"),
    [
        ("svd_xt", "fp16", "fp32, tf32, published, fast, bf16"),  # published is its only name
        ("vjepa", "published", "fp32, tf32, fp16, bf16"),
        ("videomaev2", "fast", "fp32, tf32, fp16, bf16"),
        ("mean_colour", "bf16", "fp32"),
    ],
)
def test_a_precision_that_a_family_does_not_have_is_refused(name: str, wanted: Precision, had: str) -> None:
    with pytest.raises(UsageError, match=f"^--precision {wanted}: {name} has {had}$"):
        precision_change(load_backbone(name), wanted)


def test_a_precision_that_a_backbone_has_already_changes_nothing() -> None:
    assert precision_change(load_backbone("svd_xt"), "published") == {}
    assert precision_change(load_backbone("mean_colour"), "fp32") == {}
    assert precision_change(load_backbone("svd_xt"), "fp32") == {"precision": "fp32"}


@pytest.mark.parametrize(("name", "half"), [("published", torch.float16), ("bf16", torch.bfloat16)])
def test_products_on_a_cpu_read_half_precision_and_add_in_fp32(name: Precision, half: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(shape, generator=generator) for shape in ((2, 8, 9, 9), (16, 8, 3, 3)))
    tokens, matrix = x.flatten(2), torch.randn((16, 81), generator=generator)
    q, k, v = (torch.randn((2, 4, 10, 8), generator=generator) for _ in range(3))
    with torch.inference_mode(), autocast(name, CPU):
        found = [
            functional.conv2d(x, weight),
            functional.linear(tokens, matrix),
            functional.scaled_dot_product_attention(q, k, v),
        ]
    rounded = [value.to(half).float() for value in (x, weight, tokens, matrix, q, k, v)]
    expected = [
        functional.conv2d(rounded[0], rounded[1]),
        functional.linear(rounded[2], rounded[3]),
        functional.scaled_dot_product_attention(*rounded[4:]),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype is half
        assert torch.equal(ours, theirs.to(half))


def test_values_beyond_fp16_become_infinite_on_a_cpu_too() -> None:
    with autocast("published", CPU):
        assert functional.linear(torch.full((1, 64), 300.0), torch.full((1, 64), 300.0)).isinf().all()
    with autocast("fp32", CPU):
        assert functional.linear(torch.full((1, 64), 300.0), torch.full((1, 64), 300.0)).isfinite().all()


@pytest.mark.parametrize(
    ("name", "matrices", "convolutions"),
    [
        ("fp32", "ieee", "ieee"),
        ("tf32", "tf32", "tf32"),
        ("published", "ieee", "tf32"),
        ("fast", "ieee", "tf32"),
        ("fp16", "ieee", "tf32"),
    ],
)
def test_tf32_is_used_where_the_release_used_it(name: Precision, matrices: str, convolutions: str) -> None:
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    with fp32_products(name):
        within = torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    assert within == (matrices, convolutions)
    assert before == (torch.backends.cuda.matmul.fp32_precision, torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined]


def test_what_a_cpu_computes_otherwise_is_said() -> None:
    assert explain_precision("fp32", "cpu") == ""
    assert "the VAE computes in fp32" in explain_precision("published", "cpu")
    assert "fast is no faster" in explain_precision("fast", "cpu")
    assert "the same as fp32" in explain_precision("tf32", "cpu")


@pytest.mark.parametrize(
    ("name", "capability", "said"),
    [
        ("published", (9, 0), ""),
        ("published", (7, 5), "precision published: Old GPU has no TF32, fp32 takes its place"),
        ("tf32", (7, 0), "precision tf32: Old GPU has no TF32, fp32 takes its place"),
        (
            "fast",
            (6, 1),
            "precision fast: Old GPU has no TF32, fp32 takes its place; no matrix units for fp16, which is slow",
        ),
        ("fp16", (7, 5), ""),
        ("fp32", (6, 1), ""),
    ],
)
def test_a_gpu_without_tf32_or_fp16_is_named(
    monkeypatch: pytest.MonkeyPatch, name: Precision, capability: tuple[int, int], said: str
) -> None:
    monkeypatch.setattr(precision.torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(precision.torch.cuda, "get_device_name", lambda device: "Old GPU")
    assert explain_precision(name, "cuda:0") == said
