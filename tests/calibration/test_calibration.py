from types import ModuleType

import inframind.calibration as calibration


def test_all_names_exist_and_stand_there_once() -> None:
    assert len(set(calibration.__all__)) == len(calibration.__all__)
    assert all(hasattr(calibration, name) for name in calibration.__all__)


def test_every_public_object_that_is_imported_is_in_all() -> None:
    public = {
        name
        for name, value in vars(calibration).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert public == set(calibration.__all__)
