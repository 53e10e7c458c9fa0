import pytest

from bankportal.config import SETTINGS, Config, load
from bankportal.domain.errors import SettingsRefused


def settings(tmp_path, **values: str) -> Config:
    return load(
        {"BANKPORTAL_INSTANCE": str(tmp_path)} | {f"BANKPORTAL_{name}": value for name, value in values.items()}
    )


def test_it_works(tmp_path) -> None:
    config = settings(tmp_path)
    assert config.database_url == f"sqlite:///{tmp_path}/bankportal.sqlite3"
    assert config.secret_key is None


def test_the_instance_folder_keeps_settings(tmp_path) -> None:
    (tmp_path / "settings.env").write_text("BANKPORTAL_PORT=9000\nBANKPORTAL_THREADS=2\n")
    assert settings(tmp_path).port == 9000
    assert settings(tmp_path, PORT="9001").port == 9001, "the environment wins"


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "0"), ("PORT", "65536"), ("PORT", "http"), ("PORT", "٨٠"), ("THREADS", "-1"), ("LOG_FORMAT", "xml")],
)
def test_settings_without_meaning_are_named(tmp_path, name, value) -> None:
    with pytest.raises(SettingsRefused, match=f"BANKPORTAL_{name}"):
        settings(tmp_path, **{name: value})


def test_an_unreadable_database_url_is_named(tmp_path) -> None:
    with pytest.raises(SettingsRefused, match="BANKPORTAL_DATABASE_URL"):
        settings(tmp_path, DATABASE_URL="not a url")


def test_every_setting_has_help() -> None:
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    assert [setting.name for setting in SETTINGS if setting.name == "SECRET_KEY" and setting.default] == []
