"""What the model's operators cost beside their matrix products: launches, bytes that they move, and what they keep.

One method of `Work` per operator of the model, which adds up its forward and its backward. A launch is an operator that
computes (one kernel or a few: a `segment_sum` is thirty); views and allocations are none. Bytes are what an operator
reads and writes, each tensor once; those of matrix products and attention are left out, since their time is not that
of their bytes. Kept is what autograd saves for backward, each storage once: whoever reads rows with a matrix product
keeps them. `sclds.costs.traffic` counts the same while the operators run, and tests hold the two together.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from sclds.config import Config
from sclds.costs.rows import Rows

FP32 = 4
INDEX = 8
"""Bytes of an index."""
MASK_VALUES = 90
"""Bytes per element that drawing one dropout mask moves where no kernel draws it (`scl_kernels.dropout_norm.draws`)."""
MASK_LAUNCHES = 25
"""Launches of drawing it, 12 of them on the rows' keys alone."""
FEW_ROWS = 16384
"""Most rows whose gather is summed by one launch of PyTorch's (`scl_kernels.gather_rows.operation.SMALL`)."""


@dataclass
class Pass:
    """One direction of a pass."""

    launches: int = 0
    bytes: int = 0

    def run(self, moved: float = 0, launches: int = 1) -> None:
        """Add an operator that moves so many bytes; `launches` of them."""
        self.launches += launches
        self.bytes += round(moved)


def added(passes: Iterable[Pass]) -> Pass:
    """Return the sum of passes."""
    total = Pass()
    for one in passes:
        total.run(one.bytes, one.launches)
    return total


class Work:
    """What operators cost so far.

    Args:
        value: Bytes of a value of the type that the model computes in.
        fused: Whether our kernels run, or PyTorch's operators.
    """

    def __init__(self, value: int, fused: bool):
        self.value, self.fused = value, fused
        self.forward, self.backward = Pass(), Pass()
        self.kept = self.working = 0

    def keep(self, *values: float) -> None:
        """Keep so many values of the compute type until backward."""
        self.kept += round(self.value * sum(values))

    def hold(self, *values: float) -> None:
        """Hold so many values of the compute type while backward passes; the most at any place counts."""
        self.working = max(self.working, round(self.value * sum(values)))

    def linear(self, rows: int, inputs: int, outputs: int, bias: bool = True, input_gradient: bool = True) -> None:
        """Multiply by a weight; backward multiplies for the input and for the weight, and sums for the bias."""
        if not rows:
            return
        self.forward.run()
        self.backward.run(launches=1 + input_gradient)
        if bias:
            self.backward.run(self.value * (rows * outputs + outputs))

    def attention(self, queries: int, width: int, heads: int) -> None:
        """Attend by a kernel of variable lengths, which keeps its output and a log-sum-exp per row and head."""
        if queries:
            self.forward.run()
            self.backward.run()
            self.keep(queries * width)
            self.kept += FP32 * queries * heads

    def layer_norm(self, rows: int, width: int) -> None:
        """Normalize rows; whoever calls this says whether they are kept by another operator too."""
        if rows:
            self.forward.run(self.value * (2 * rows + 2) * width + 2 * FP32 * rows)
            self.backward.run(self.value * (3 * rows + 4) * width + 2 * FP32 * rows)
            self.kept += 2 * FP32 * rows

    def sum_norm(self, rows: int, width: int, drops: bool, sum_is_read: bool = False) -> None:
        """Drop, add to the residual stream and normalize; keeps the sums.

        Args:
            rows: Of both.
            width: Channels.
            drops: Whether anything is dropped.
            sum_is_read: Whether the sum goes on as the residual stream (pre-norm), so that it has a gradient.
        """
        if not rows:
            return
        self.keep(rows * width)
        if not self.fused:
            if drops:
                self.dropout(rows, width)
            self.forward.run(3 * self.value * rows * width)
            self.layer_norm(rows, width)
            if sum_is_read:
                self.add_gradients(rows, width)
            return
        v, keys = self.value, INDEX * rows * drops
        self.kept += 2 * FP32 * rows
        self.forward.run(v * (4 * rows + 2) * width + keys + 2 * FP32 * rows)
        self.backward.run(
            v * ((3 + drops + sum_is_read) * rows + 1) * width + keys + 2 * FP32 * rows + 2 * FP32 * width
        )
        self._convert_vectors(2, width)

    def dropout(self, rows: int, width: int) -> None:
        """Drop by counter without a kernel; keeps the factors in fp32."""
        elements = rows * width
        self.forward.run((MASK_VALUES + 5 + 8 + 12) * elements, MASK_LAUNCHES + 3)
        self.backward.run(12 * elements)
        self.kept += FP32 * elements
        if self.value != FP32:  # the product is one of fp32
            self.forward.run(2 * (FP32 + self.value) * elements, 2)
            self.backward.run(2 * (FP32 + self.value) * elements, 2)

    def activation(self, rows: int, width: int, kind: str) -> None:
        """Add the bias of the product before it, and activate; keeps the product and what comes of it."""
        if not rows:
            return
        v, elements = self.value, rows * width
        self.keep(2 * elements)
        if self.fused:
            self.forward.run(v * (2 * elements + width))
            self.backward.run(v * (3 * elements + width) + FP32 * width)
            self._convert_vectors(1, width)
            return
        self.backward.run(v * (elements + width))
        if kind == "quick_gelu":
            self.forward.run(7 * v * elements, 3)
            self.backward.run(14 * v * elements, 5)
            self.keep(elements)
        else:
            self.forward.run(2 * v * elements)
            self.backward.run(3 * v * elements)

    def gather(self, table: int, rows: int, width: int, gradient: bool = True) -> None:
        """Read rows of a packed buffer of `table` rows; backward adds them up, where there is a gradient."""
        if not rows:
            return
        v = self.value
        self.forward.run(2 * (v * rows * width + INDEX * rows * self.fused))
        self.kept += INDEX * rows
        if gradient:
            self.backward.run(v * (rows + table + (rows <= FEW_ROWS and self.fused)) * width + INDEX * rows)
        if not self.fused:  # rows out of range are marked
            self.forward.run(v * 2 * rows * width + (2 * INDEX + 14) * rows, 8)
            self.kept += rows
            if gradient:
                self.backward.run(v * 2 * rows * width + rows, 2)

    def index(self, table: int, rows: int, width: int) -> None:
        """Read rows by PyTorch's own index; backward puts them into zeros, which are added to other gradients."""
        if rows:
            v = self.value
            self.forward.run(2 * v * rows * width)
            self.backward.run(v * (2 * rows + 3 * table) * width + INDEX * rows, 2)
            self.add_gradients(table, width)

    def part_of(self, table: int, rows: int, width: int) -> None:
        """Read a range of rows: a view, whose gradient is copied into zeros."""
        if rows:
            self.backward.run(self.value * (rows + table) * width)

    def add(self, rows: int, width: int) -> None:
        """Add two tensors."""
        self.forward.run(3 * self.value * rows * width)

    def add_gradients(self, rows: int, width: int) -> None:
        """Add the gradients of rows that two operators read."""
        self.backward.run(3 * self.value * rows * width)

    def embed(self, rows: int, width: int, tables: tuple[int, int, int], special: int) -> None:
        """Gather rows of three tables, add them and normalize.

        Args:
            rows: Written.
            width: Channels.
            tables: Rows of the tables.
            special: Rows beside them, [CLS] and mask token.
        """
        v, indices = self.value, 3 * INDEX * rows
        read = v * (sum(tables) + special + 2) * width + indices
        if self.fused:
            self.forward.run(read + v * rows * width + 2 * FP32 * rows)
            joint = v * (sum(tables) + 2) * width
            self.backward.run(read + v * rows * width + 2 * FP32 * rows + joint + 2 * FP32 * width)
            self._convert_vectors(2, width)
            self.kept += 2 * FP32 * rows
            return
        wide, elements = max(v, FP32), rows * width
        self.forward.run((6 * v + 14 * wide + special * 2 * v) * elements + 40 * INDEX * rows, 28 + 4 * special)
        self.backward.run((6 * v + 8 * wide + special * 5 * v) * elements + v * sum(tables) * width, 12 + 5 * special)
        self.kept += wide * elements + (2 * FP32 + 6 * INDEX) * rows

    def _convert_vectors(self, count: int, width: int) -> None:
        """Convert gradients of vectors out of fp32, where the weights are of another type."""
        if self.value != FP32:
            self.backward.run(count * (FP32 + self.value) * width, count)


@dataclass(frozen=True)
class Counted:
    """What is counted: a configuration's micro-batch of some rows."""

    config: Config
    rows: Rows
    vocab_size: int
    value: int
    """Bytes of a value."""
    fused: bool

    def work(self, *of: Callable[[Work], None]) -> Work:
        """Return the work of some operators."""
        work = Work(self.value, self.fused)
        for add in of:
            add(work)
        return work
