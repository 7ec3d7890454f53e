from types import ModuleType

import inframind.traces as traces


def test_all_names_exist_and_stand_there_once() -> None:
    assert len(set(traces.__all__)) == len(traces.__all__)
    assert all(hasattr(traces, name) for name in traces.__all__)


def test_every_public_object_that_is_imported_is_in_all() -> None:
    public = {
        name for name, value in vars(traces).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert public == set(traces.__all__)
