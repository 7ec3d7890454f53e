import pickle

from inframind.traces.mistakes import ConfigError, Mistakes, TraceError, did_you_mean


def test_the_message_is_a_headline_and_one_indented_line_for_each_problem() -> None:
    error = ConfigError("pool.toml", ["seed: missing", "slo: missing"])

    assert str(error) == "pool.toml: 2 problems\n  seed: missing\n  slo: missing"


def test_the_headline_counts_the_problems_that_are_not_listed() -> None:
    error = TraceError("a.csv", ["line 2: bad"], 7)

    assert str(error) == "a.csv: 7 problems\n  line 2: bad\n  ... and 6 more"


def test_an_error_survives_the_way_back_from_a_worker_process() -> None:
    error = TraceError("a.csv", ["line 2: bad"], 7)

    again = pickle.loads(pickle.dumps(error))

    assert isinstance(again, TraceError)
    assert isinstance(again, Mistakes)
    assert str(again) == str(error)


def test_only_a_near_word_is_suggested() -> None:
    assert did_you_mean("max_num_seq", ["max_num_seqs", "policy"]) == "; did you mean 'max_num_seqs'?"
    assert did_you_mean("EDF", ["fcfs", "edf"]) == "; did you mean 'edf'?"
    assert did_you_mean("colour", ["max_num_seqs", "policy"]) == ""
