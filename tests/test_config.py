import pytest

from bankportal.config import SETTINGS, Config, load
from bankportal.domain.errors import SettingsRefused
from bankportal.store.migrate import upgrade
from bankportal.store.sessions import Database


def settings(tmp_path, **values: str) -> Config:
    return load(
        {"BANKPORTAL_INSTANCE": str(tmp_path)} | {f"BANKPORTAL_{name}": value for name, value in values.items()}
    )


def test_it_works(tmp_path) -> None:
    config = settings(tmp_path)
    assert config.database_url.database == str(tmp_path / "bankportal.sqlite3")
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


@pytest.mark.parametrize("url", ["not a url", "mysql://localhost/x", "sqlite"])
def test_a_database_that_is_none_of_ours_is_named(tmp_path, url) -> None:
    with pytest.raises(SettingsRefused, match="BANKPORTAL_DATABASE_URL"):
        settings(tmp_path, DATABASE_URL=url)


@pytest.mark.parametrize("name", ["with space", "100%41", "a?b", "a#b", "ä é"])
def test_any_folder_name_holds_its_database(tmp_path, name) -> None:
    folder = tmp_path / name
    database = Database(settings(folder).database_url)
    upgrade(database)
    database.close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (folder / "bankportal.sqlite3").is_file()


def test_settings_that_are_no_text_are_named(tmp_path) -> None:
    (tmp_path / "settings.env").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsRefused, match=r"settings\.env"):
        settings(tmp_path)


def test_every_setting_has_help() -> None:
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    assert [setting.name for setting in SETTINGS if setting.name == "SECRET_KEY" and setting.default] == []
