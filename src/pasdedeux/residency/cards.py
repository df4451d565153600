"""Graphics cards by name, and the processor: what of them decides where weights can be and how long a run takes.

Memory is what the driver reports (nvidia-smi), matrix rates are dense and with float32 sums, as the makers publish them
(whitepapers of Ampere GA102, Ada, and RTX Blackwell, and their formula, 256 multiply-adds per multiprocessor and clock,
where a card is not listed; data sheets of A100, H100 and H200, SXM boards). Links are what pinned copies reach, about
four fifths of the lanes' rate.

How much of the matrix rate a whole forward reaches is an assumption, one number per generation, of published runs:
- Ada 0.88: 145 of 165 TFLOP/s explains 13.7 s eager and 11.6 s compiled of a 14B forward at 832x480, 81 frames, on an
  RTX 4090 within 4 % (huggingface/diffusers#11605). Taken for the other GeForce cards too: at the rate of float32 sums
  their matrix units are easily kept busy. An RTX 5090 then has 184; 182 follows from TurboDiffusion's 3182 s for 80
  forwards at 720p.
- Ampere A100 0.63: Wan2.2's own table has 785.7 s for 80 forwards at 480p, 2735.7 s at 720p.
- Hopper 0.46: 4.60 s eager on an H100 for the forward above. With FlashAttention 3 published runs reach 0.5 to 0.6.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

PROCESSOR = "cpu"
MEMINFO = Path("/proc/meminfo")
MIB = 1 << 20
GEFORCE, A100, HOPPER = 0.88, 0.63, 0.46
STREAMED = 0.84
"""Share of the memory's bandwidth that elementwise kernels reach: 0.85 of 1.008 TB/s, fitted with the 0.88 above."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    """One card, or a processor, of which nothing is known but memory.

    memory: bytes; bf16, fp8: dense matrix rates in TFLOP/s, fp8 None where the card has none; share: how much of that a
    forward reaches; bandwidth: of its memory, GB/s; link: from host memory, GB/s; all are 0 where they are not known.
    price: dollars per hour and of which date, where one is known. processor: the host itself, where weights come from
    the disk.
    """

    name: str
    title: str
    memory: int
    bf16: float = 0
    fp8: float | None = None
    share: float = 0
    bandwidth: float = 0
    link: float = 0
    price: float | None = None
    price_of: str = ""
    processor: bool = False

    @property
    def timed(self) -> bool:
        """Whether seconds can be foretold."""
        return min(self.rate, self.traffic, self.copying) > 0

    @property
    def rate(self) -> float:
        """Floating-point operations per second that a forward in bfloat16 reaches."""
        return self.bf16 * self.share * 1e12

    @property
    def traffic(self) -> float:
        """Bytes per second that elementwise work reads and writes."""
        return self.bandwidth * STREAMED * 1e9

    @property
    def copying(self) -> float:
        """Bytes per second from pinned host memory."""
        return self.link * 1e9


CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        # 28 multiprocessors at 1.777 GHz; 192 bits of GDDR6 at 15 Gbit/s; PCIe 4 x16.
        Card(
            name="rtx3060",
            title="RTX 3060 12 GB",
            memory=12288 * MIB,
            bf16=25.5,
            fp8=None,
            share=GEFORCE,
            bandwidth=360,
            link=25,
        ),
        # 34 multiprocessors at 2.535 GHz; 128 bits of GDDR6 at 18 Gbit/s; PCIe 4, but x8.
        Card(
            name="rtx4060ti",
            title="RTX 4060 Ti 16 GB",
            memory=16380 * MIB,
            bf16=44.1,
            fp8=88.2,
            share=GEFORCE,
            bandwidth=288,
            link=12.5,
        ),
        # Ampere GA102 whitepaper: 71 with float32 sums; 936 GB/s; PCIe 4 x16.
        Card(
            name="rtx3090",
            title="RTX 3090",
            memory=24576 * MIB,
            bf16=71,
            fp8=None,
            share=GEFORCE,
            bandwidth=936,
            link=25,
        ),
        # Ada whitepaper: 165.2 and 330.3; 1008 GB/s; PCIe 4 x16. Price: Vast.ai, on demand.
        Card(
            name="rtx4090",
            title="RTX 4090",
            memory=24564 * MIB,
            bf16=165.2,
            fp8=330.3,
            share=GEFORCE,
            bandwidth=1008,
            link=25,
            price=0.45,
            price_of="May 2026",
        ),
        # RTX Blackwell whitepaper: 209.5 and 419; 1792 GB/s; PCIe 5 x16.
        Card(
            name="rtx5090",
            title="RTX 5090",
            memory=32607 * MIB,
            bf16=209.5,
            fp8=419,
            share=GEFORCE,
            bandwidth=1792,
            link=55,
        ),
        # Data sheet: 312; 1555 GB/s (40 GB) and 2039 GB/s (80 GB); PCIe 4 x16.
        Card(
            name="a100-40",
            title="A100 40 GB",
            memory=40960 * MIB,
            bf16=312,
            fp8=None,
            share=A100,
            bandwidth=1555,
            link=25,
        ),
        Card(
            name="a100-80",
            title="A100 80 GB",
            memory=81920 * MIB,
            bf16=312,
            fp8=None,
            share=A100,
            bandwidth=2039,
            link=25,
        ),
        # Data sheets: 989.4 and 1978.9 without sparsity; 3.35 and 4.8 TB/s; PCIe 5 x16. Price of H200: Vast.ai, from.
        Card(
            name="h100",
            title="H100 80 GB",
            memory=81559 * MIB,
            bf16=989.4,
            fp8=1978.9,
            share=HOPPER,
            bandwidth=3350,
            link=55,
        ),
        Card(
            name="h200",
            title="H200 141 GB",
            memory=143771 * MIB,
            bf16=989.4,
            fp8=1978.9,
            share=HOPPER,
            bandwidth=4800,
            link=55,
            price=3.50,
            price_of="May 2026",
        ),
    )
}
_GEFORCE_SIZES = ("12gb", "16gb", "24gb", "32gb")
_NOISE = (" ", "-", "_", "nvidia", "geforce", "rtx", "sxm", "pcie", *_GEFORCE_SIZES, "141gb", "gb")


def find_card(text: str) -> Card:
    """A card by what people call it: "rtx4090", "4090", "RTX 4060 Ti 16GB", "A100-80GB"; "cpu" is this processor.

    Raises ValueError if it is none.
    """
    wanted = _bare(text)
    if wanted == PROCESSOR:
        return Card(name=PROCESSOR, title="a processor", memory=free_memory(), processor=True)
    found = [card for name, card in CARDS.items() if _bare(name) == wanted]
    if not found:
        raise ValueError(f'The card "{text}" is not known; known are {", ".join((*CARDS, PROCESSOR))}.')
    return found[0]


def free_memory() -> int:
    """Bytes of this machine's memory that a new process can have; where the system does not say, all of it."""
    if MEMINFO.is_file():
        found = re.search(r"^MemAvailable:\s*(\d+) kB", MEMINFO.read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _bare(text: str) -> str:
    text = text.lower()
    for part in _NOISE:
        text = text.replace(part, "")
    return text
