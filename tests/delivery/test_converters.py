import pytest

import efftune
from efftune.delivery import converters


@pytest.mark.long
@pytest.mark.parametrize("program", ["tensorflow_conversion", "nncf_conversion"])
def test_conversion_that_fails_is_told(tmp_path, program):
    with pytest.raises(efftune.DataError, match=rf"could not be converted \({program}\): .*Error"):
        converters.convert(program, tmp_path, tmp_path / "model", "f32")
