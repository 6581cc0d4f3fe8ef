"""The table of clusters: complete, each figure with its source, and extended by a user's file under the same rules."""

from pathlib import Path

import pytest

from sclds.config.errors import ConfigError
from sclds.costs.clusters import Cluster, cluster_of, known_kinds

KINDS = known_kinds()


def test_the_kinds_that_people_ask_for_are_there():
    assert set(KINDS) == {"a100-40", "a100-80", "h100", "h200", "b200", "cpu"}
    assert cluster_of(KINDS, "a100", 8).name == "a100-80"


def test_a_users_file_adds_a_kind_and_replaces_figures(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "kinds:\n"
        "  slow-network: {like: h100, port: 3.0e+9, sources: {port: our cluster}}\n"
        "  h100: {gpus_per_node: 4, sources: {gpus_per_node: our cluster}}\n"
    )
    found = known_kinds(file)
    assert found["slow-network"].port == 3e9
    assert found["slow-network"].memory == KINDS["h100"].memory
    assert found["slow-network"].gpus_per_node == 8
    assert found["h100"].gpus_per_node == 4
    assert found["h100"].sources["gpus_per_node"] == "our cluster"
    assert found["b200"] == KINDS["b200"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("kinds: {mine: {like: h100, port: 3}}", "gives no source for port"),
        ("kinds: {mine: {like: h100, prt: 3}}", "prt: unknown key; did you mean 'port'?"),
        ("kinds: {mine: {like: h1000}}", "like='h1000': known are a100-80"),
        ("kinds: {mine: {memory: 3}}", "kinds.mine: port: is required and missing"),
        ("kinds: {h100: {memory: -3, sources: {memory: x}}}", "kinds.h100: memory=-3: input should be greater than 0"),
        ("kinds: {h100: {sources: {memry: x}}}", "memry, which are no figures"),
        ("kinds: {h100: {matmul_share: 1.5, sources: {matmul_share: x}}}", "less than or equal to 1"),
        ("kinds: 3", "expected `kinds:`"),
        ("other: {}", "expected `kinds:`"),
        ("kinds: [", "cannot be read as YAML"),
    ],
)
def test_what_is_wrong_in_it_is_a_sentence(text, says, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as fault:
        known_kinds(file)
    assert str(file) in str(fault.value)
    assert says in str(fault.value)


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("kinds: {h100: {memory: -3, sources: {memory: x}}, b200: {port: -1, sources: {port: x}}}")
    with pytest.raises(ConfigError) as fault:
        known_kinds(file)
    assert len(fault.value.problems) == 2


@pytest.mark.parametrize(("gpus", "nodes"), [(1, 1), (8, 1), (12, 2), (16, 2), (20, 4), (24, 3), (4096, 512)])
def test_machines_are_as_few_as_hold_the_gpus_evenly(gpus, nodes):
    cluster = cluster_of(KINDS, "h100", gpus)
    assert cluster.nodes == nodes
    assert cluster.per_node * nodes == gpus
    assert cluster.per_node <= 8


def test_a_ring_is_as_fast_as_its_slowest_border():
    kind = KINDS["h100"]
    assert Cluster("h100", kind, 8, 1).link == kind.node_link
    assert Cluster("h100", kind, 16, 2).link == 8 * kind.port
    assert Cluster("h100", kind, 16, 16).link == kind.port


def test_messages_take_their_hops_and_their_bytes():
    """Of 16 GPUs on 2 machines a ring has 13 hops inside and 2 between them."""
    kind = KINDS["h100"]
    cluster = Cluster("h100", kind, 16, 2)
    hops = 13 * kind.hop_seconds + 2 * kind.node_hop_seconds
    expected = 3 * (kind.message_seconds + hops) + 1e9 / cluster.link
    assert cluster.message_seconds(3, 1e9) == pytest.approx(expected)
    assert Cluster("h100", kind, 1, 1).message_seconds(3, 1e9) == 0
