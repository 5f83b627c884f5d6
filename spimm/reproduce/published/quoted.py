"""What the four papers quote from others: names and settings. This library does not reproduce these figures."""

QUOTED = {
    "metaspikeformer": {
        "ImageNet": (
            "ResNet-34 (ANN2SNN)", "VGG-16 (Wu)", "VGG-16 (Hu)", "SEW-ResNet 25.6 M", "SEW-ResNet 60.2 M",
            "MS-ResNet 21.8 M", "MS-ResNet 77.3 M", "Att-MS-ResNet 22.1 M", "Att-MS-ResNet 78.4 M", "RSB-CNN-152",
            "ViT", "SpikFormer 29.7 M", "SpikFormer 66.3 M", "SDT 29.7 M", "SDT 66.3 M",
        ),
        "HAR-DVS": ("SlowFast", "ACTION-Net", "TimeSformer", "Res-SNN-34"),
        "COCO": (
            "ResNet-18", "PVT-Tiny", "Spiking-YOLO", "Spike Calibration", "Spiking Retina", "EMS-ResNet",
        ),
        "ADE20K": ("ResNet-18", "PVT-Tiny", "PVT-Small", "DeepLab-V3"),
    },
    "qkformer": {
        "ImageNet": (
            "Spikformer 8-384", "Spikformer 8-512", "Spikformer 8-768", "Spikingformer 8-384", "Spikingformer 8-512",
            "Spikingformer 8-768", "S-Transformer 8-384", "S-Transformer 8-512 at T = 4 and 1",
            "S-Transformer 8-768 at 288", "SEW-ResNet-34", "SEW-ResNet-101", "SEW-ResNet-152", "ViT-B/16 at 384",
            "DeiT-B at 224 and 384", "Swin-B at 224 and 384",
        ),
        "CIFAR-10 and CIFAR-100": ("Spikformer-4-384", "Spikingformer", "CML", "S-Transformer-2-512"),
        "DVS128 Gesture and CIFAR10-DVS": ("Spikformer", "Spikingformer", "CML", "S-Transformer", "STSA"),
        "time": ("Spikformer",),
    },
    "spikeatconv": {"ImageNet": ("RMP VGG-16", "Dspike VGG-16", "SDT", "SpikFormer", "Meta-SpikeFormer")},
    "ttfs": {
        "MNIST": ("Mostafa MLP", "Zhang 2020", "Zhou 2021"),
        "CIFAR-10": ("Wu 2022", "Park 2020", "Zhou 2021", "Park 2021"),
        "CIFAR-100": ("Park 2020", "Park 2021"),
        "accuracies of Table 2": ("rate", "phase", "burst", "T2FSNN", "TTFS"),
    },
}  # fmt: skip
"""System -> data -> what is quoted there."""
