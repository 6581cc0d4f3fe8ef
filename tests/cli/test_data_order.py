from sclds.cli.main import main


def test_the_command_prints_a_table_and_draws(tmp_path, capsys):
    arguments = ["data", "order", "--shards", "40", "--samples-per-shard", "100", "--block", "4"]
    assert main([*arguments, "--global-batch", "256", "--plot", str(tmp_path / "order.png")]) == 0
    shown = capsys.readouterr().out
    for words in ("block of 4", "perfect shuffle", "shards open at a time", "pairs of a batch", "0.04 GB"):
        assert words in shown
    assert (tmp_path / "order.png").stat().st_size > 1000
    assert main([*arguments, "--global-batch", "0"]) == 2
    assert main([*arguments, "--global-batch", "4001"]) == 2
    assert "more than the 4000 samples of an epoch" in capsys.readouterr().err


def test_what_would_take_hours_is_refused_at_once(capsys):
    sizes = ["--shards", "1000000", "--samples-per-shard", "10000000"]
    assert main(["data", "order", *sizes, "--block", "1000000"]) == 2
    assert "lower --block" in capsys.readouterr().err
    assert main(["data", "order", *sizes, "--block", "1", "--global-batch", "1000000"]) == 2
    assert "give at most 262144" in capsys.readouterr().err
