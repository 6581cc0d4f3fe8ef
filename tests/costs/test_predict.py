"""The model of a step's time: each term by itself, and what decides."""

import math
from dataclasses import replace

import pytest

from sclds.costs.clusters import Cluster, known_kinds
from sclds.costs.predict import OVERLAP, WAITING, Message, Product, StepWork, layer_products, predict, scaled

KIND = known_kinds()["h100"]
ONE = Cluster("h100", KIND, 1, 1)
WORK = StepWork(64, 1e12, (), 0.0, 0.0)


def seconds(**parts):
    return predict(replace(WORK, **parts), ONE)


def test_a_product_takes_its_operations_and_its_operands():
    product = Product(1000, 512, 2048, 3)
    rate, bandwidth = KIND.peak_bf16 * KIND.matmul_share, KIND.memory_bandwidth * KIND.bandwidth_share
    operands = 1000 * 512 + 512 * 2048 + 1000 * 2048
    expected = 3 * (2 * 1000 * 512 * 2048 / rate + 2 * operands / bandwidth)
    assert seconds(products=(product,)).products == pytest.approx(expected)


def test_small_products_reach_less_of_the_peak_than_large_ones():
    def rate(rows, width):
        products = layer_products(rows, width, 4 * width, 1)
        return sum(p.flops for p in products) / seconds(products=products).products

    rates = [rate(rows, width) for rows, width in ((64, 64), (64, 768), (20_000, 768), (20_000, 4096))]
    assert rates == sorted(rates)
    assert rates[-1] < KIND.peak_bf16 * KIND.matmul_share
    assert rates[0] < 0.2 * rates[-1]


def test_scaled_products_have_the_operations_and_keep_their_shapes():
    products = layer_products(100, 64, 256, 7)
    found = scaled(products, 1e9)
    assert sum(p.flops for p in found) == pytest.approx(1e9)
    assert [(p.rows, p.inner, p.outer) for p in found] == [(p.rows, p.inner, p.outer) for p in products]


def test_element_wise_work_takes_its_bytes():
    found = seconds(elementwise_bytes=1e9)
    assert found.elementwise == pytest.approx(1e9 / (KIND.memory_bandwidth * KIND.bandwidth_share))
    assert (found.total, found.limit) == (found.elementwise, "memory traffic")


@pytest.mark.parametrize(
    ("parts", "limit"),
    [
        ({"host_seconds": 1.0, "elementwise_bytes": 1e12}, "host"),
        ({"host_seconds": 0.1, "elementwise_bytes": 1e12}, "memory traffic"),
        ({"core_seconds": 14 * 2.0, "host_seconds": 1.0}, "decode"),
        ({"attention_flops": 1e15, "elementwise_bytes": 1e12}, "compute"),
    ],
)
def test_the_slowest_of_what_runs_side_by_side_decides(parts, limit):
    found = seconds(**parts)
    assert found.limit == limit
    assert found.total == max(found.device, found.host, found.data)


def test_messages_hide_behind_the_device_but_for_what_has_nothing_beside_it():
    cluster = Cluster("h100", KIND, 64, 8)
    work = replace(WORK, elementwise_bytes=1e12)
    device = predict(work, cluster).device
    long = cluster.link * device
    hidden = predict(replace(work, messages={"gradients": Message(0, 0.5 * long)}), cluster)
    assert hidden.exposed == 0
    longer = predict(replace(work, messages={"gradients": Message(0, 1.5 * long)}), cluster)
    assert longer.exposed == pytest.approx((1.5 - OVERLAP) * device)
    behind = predict(replace(work, messages={"parameters": Message(0, 0.5 * long, hidden=False)}), cluster)
    assert behind.exposed == pytest.approx(0.5 * device)
    assert predict(replace(work, messages={"x": Message(0, 5 * long)}), cluster).limit == "link"


def test_more_machines_wait_longer():
    work = replace(WORK, elementwise_bytes=1e12)
    few, many = (predict(work, Cluster("h100", KIND, 8 * nodes, nodes)) for nodes in (1, 16))
    assert few.waiting == 0
    assert many.waiting == pytest.approx(WAITING * math.log2(16) * few.total)


def test_on_a_cpu_nothing_runs_beside_anything():
    kind = known_kinds()["cpu"]
    work = replace(
        WORK, elementwise_bytes=1e9, host_seconds=1.0, core_seconds=2.0, messages={"gradients": Message(1, 1e9)}
    )
    found = predict(work, Cluster("cpu", kind, 2, 1))
    assert found.exposed == pytest.approx(found.communication)
    assert found.total == pytest.approx(found.device + 1.0 + 2.0 + found.communication)


def test_measured_factors_multiply_device_and_host():
    work = replace(WORK, elementwise_bytes=1e12, host_seconds=1.0)
    slow = Cluster("h100", KIND.with_figures("measured", device_factor=2.0, host_factor=3.0), 1, 1)
    assert predict(work, slow).device == pytest.approx(2 * predict(work, ONE).device)
    assert predict(work, slow).host == pytest.approx(3.0)
    assert slow.kind.sources["host_factor"] == "measured"
