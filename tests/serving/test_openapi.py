"""The description of the server's interface; test_page looks at the page that shows it."""

import json
from pathlib import Path

from efftune.serving.app import application
from efftune.serving.guard import OPEN, OPEN_FOLDER
from efftune.serving.settings import ServerSettings
from efftune.serving.state import State


def described():
    place = Path(__file__).parents[2] / "src/efftune/serving/page/openapi.json"
    return json.loads(place.read_text(encoding="utf-8"))


def test_every_route_is_described():
    routes = application(State(ServerSettings()))._application.routes
    known = described()["paths"]
    for route in routes:
        methods = {each.lower() for each in route.methods - {"HEAD"}}
        assert methods == set(known[route.path]), route.path


def test_every_reference_of_the_description_leads_somewhere():
    whole = described()

    def follow(part):
        for key, value in part.items() if isinstance(part, dict) else enumerate(part):
            if key == "$ref":
                target = whole
                for name in value.removeprefix("#/").split("/"):
                    target = target[name]
            elif isinstance(value, dict | list):
                follow(value)

    follow(whole)


def test_what_needs_no_token_says_so():
    for path, item in described()["paths"].items():
        for operation in item.values():
            is_open = path in OPEN or path.startswith(OPEN_FOLDER)
            assert (operation.get("security") == []) == is_open, path
            assert ("401" in operation["responses"]) != is_open, path
