"""client.py against a real local server: what is retried, what is stored, what stops a run."""

import asyncio
import re
from contextlib import contextmanager
from email.utils import formatdate

import pytest
from fake_endpoint import Endpoint, serving
from PIL import Image

from sicog.remote.budget import BudgetReached
from sicog.remote.client import BadImage, Client, EndpointError, Message, NoAnswer, Request, open_client
from sicog.remote.config import EndpointConfig
from sicog.remote.image_parts import Picture
from sicog.remote.limits import Clock

KEY = "sk-very-secret-0123456789"


class FakeClock:
    """Time passes only by sleeping."""

    def __init__(self):
        self.time, self.slept = 1000.0, []

    def clock(self):
        return Clock(now=lambda: self.time, wall=lambda: 1_700_000_000 + self.time, sleep=self.sleep)

    async def sleep(self, seconds):
        self.slept.append(seconds)
        self.time += seconds
        await asyncio.sleep(0)


def request(text, max_tokens=100, **more):
    return Request((Message("user", (text,)),), temperature=0.2, max_tokens=max_tokens, **more)


def echo(body):
    content = body["messages"][-1]["content"]
    return f"You said: {content if isinstance(content, str) else content[0]['text']}"


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a proxy that is not there: not for this machine's server
    with serving(Endpoint(echo)) as served:
        yield served


@pytest.fixture
def ask(endpoint, tmp_path):
    """Ask texts of a fresh client; answers or exceptions in order."""

    def run(*texts, clock=None, folder="answers", tell=None, **config):
        with connect(endpoint, tmp_path / folder, clock, **config) as client:
            requests = [text if isinstance(text, Request) else request(text) for text in texts]

            async def outcome(one):
                try:
                    return (await client.ask(one)).text
                except (NoAnswer, BadImage) as error:
                    return error

            results = client.run([outcome(one) for one in requests])
            if tell is not None:
                tell.append((client.asked, client.stored, client.purse.input_tokens, client.purse.output_tokens))
            return results

    return run


@contextmanager
def connect(endpoint, folder, clock=None, **config) -> Client:
    settings = EndpointConfig(**{"model": "m", "base_url": endpoint.url, "timeout_s": 20, **config})
    with open_client(settings, folder, clock.clock() if clock else None) as client:
        yield client


def test_answers_come_in_the_order_of_the_requests_and_at_most_so_many_at_once(ask, endpoint):
    endpoint.delay_s = 0.01
    texts = [str(i) for i in range(30)]
    assert ask(*texts, concurrency=4) == [f"You said: {t}" for t in texts]
    assert endpoint.count == 30 and 2 <= endpoint.most_at_once <= 4
    assert endpoint.bodies[0]["temperature"] == 0.2 and endpoint.bodies[0]["max_tokens"] == 100
    assert {h["authorization"] for h in endpoint.headers} == {f"Bearer {KEY}"}


def test_an_answer_is_never_asked_twice(ask, endpoint):
    told = []
    first = ask("a", "b", "a", tell=told)
    assert endpoint.count == 2 and told == [(2, 1, 200, 100)]
    assert ask("b", "a", "a", tell=told) == [first[1], first[0], first[0]]
    assert endpoint.count == 2 and told[-1] == (0, 3, 200, 100)
    # Whatever decides the answer makes another request; what does not, does not.
    ask(request("a", 99), request("a", version="2"), "a")
    assert endpoint.count == 4
    ask("a", concurrency=2, requests_per_minute=5, base_url=endpoint.url + "/")
    assert endpoint.count == 4
    ask("a", model="other")
    assert endpoint.count == 5


RETRIED = [("status", 429), ("status", 500), ("status", 503), ("status", 408), ("status", 409), ("cut", None)]
RETRIED += [("malformed", None), ("no_choices", None), ("error_in_body", None)]


@pytest.mark.parametrize("fault", RETRIED, ids=lambda f: str(f[0]) + str(f[1]))
def test_what_may_pass_is_tried_again_with_growing_pauses(ask, endpoint, fault):
    clock = FakeClock()
    endpoint.faults = [fault] * 3
    assert ask("x", clock=clock) == ["You said: x"]
    assert endpoint.count == 4
    assert 0.5 + 1 + 2 <= sum(clock.slept) <= 1 + 2 + 4


def test_a_hanging_server_is_given_up(ask, endpoint):
    endpoint.faults = [("hang", 2)]
    told = []
    assert ask("x", clock=FakeClock(), timeout_s=0.2, tell=told) == ["You said: x"]
    assert endpoint.count == 2
    assert told[0][3] == 50 + 100  # the answer that never came was probably paid


def test_pauses_have_jitter(ask, endpoint):
    pauses = set()
    for text in "abc":
        clock = FakeClock()
        endpoint.faults = [("status", 500)]
        ask(text, clock=clock)
        pauses.add(sum(clock.slept))
    assert len(pauses) == 3


def test_attempts_end(ask, endpoint):
    endpoint.faults = [("status", 500)] * 3
    (error,) = ask("x", clock=FakeClock(), attempts=3)
    assert isinstance(error, NoAnswer) and error.reason == "no_answer" and "status 500" in str(error)
    assert endpoint.count == 3
    assert ask("x") == ["You said: x"]  # no failure is stored


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(ask, endpoint, form):
    clock = FakeClock()
    value = "30" if form == "seconds" else formatdate(1_700_000_000 + clock.time + 30, usegmt=True)
    endpoint.faults = [("status", (429, {"Retry-After": value}, ""))]
    ask("x", "y", clock=clock, concurrency=1)
    assert 29 <= sum(clock.slept) <= 31


def test_a_wait_of_hours_stops_the_run(ask, endpoint):
    endpoint.faults = [("status", (429, {"Retry-After": "86400"}, ""))]
    with pytest.raises(EndpointError, match="asks to wait 86400 s"):
        ask("x", clock=FakeClock())


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_what_cannot_work_stops_the_run(ask, endpoint, status):
    endpoint.faults = [("status", status)] * 5
    with pytest.raises(EndpointError, match=f"refuses model 'm' .status {status}"):
        ask(*"abcdefghij", concurrency=1)
    assert endpoint.count == 1


def test_an_empty_account_stops_the_run(ask, endpoint):
    endpoint.faults = [("status", (429, {}, "insufficient_quota"))]
    with pytest.raises(EndpointError, match="insufficient_quota"):
        ask("x")


def test_a_request_refused_among_answered_ones_fails_alone(ask, endpoint):
    ask("a")
    endpoint.faults = [("status", 400), ("status", (400, {}, "content_filter"))]
    bad, filtered, good = ask("b", "c", "d", concurrency=1)
    assert (bad.reason, filtered.reason, good) == ("bad_request", "refusal", "You said: d")


def test_a_dead_endpoint_stops_the_run(ask, endpoint):
    endpoint.faults = [("status", 500)] * 1000
    with pytest.raises(EndpointError, match="no answer to 20 requests in a row"):
        ask(*map(str, range(100)), clock=FakeClock(), attempts=2)
    assert endpoint.count < 100


def test_the_server_is_gone(ask, endpoint, tmp_path):
    (error,) = ask("x", base_url="http://127.0.0.1:9/v1", attempts=2, clock=FakeClock())
    assert error.reason == "no_answer" and "connection" in str(error)


@pytest.mark.parametrize(("fault", "refusal"), [(("refusal", None), True), (("filtered", None), True)])
def test_a_marked_refusal_is_an_answer_that_says_so(endpoint, tmp_path, fault, refusal):
    endpoint.faults = [fault]
    with connect(endpoint, tmp_path / "a") as client:
        (answer,) = client.run([client.ask(request("x"))])
        assert answer.refusal is refusal


ROWS = [f"{i:0>400}" for i in range(50)]  # 100 tokens by the estimate, as the fake endpoint counts
PRICES = {"input": 10.0, "output": 20.0}  # an answer: 100 * 10 + 50 * 20 = 2000 millionths; set aside: 3000


def test_the_budget_holds_over_restarts(ask, endpoint):
    for _ in range(2):
        with pytest.raises(BudgetReached, match="Run again with a higher budget"):
            ask(*ROWS, prices=PRICES, budget={"usd": 0.0201}, concurrency=8)
        assert endpoint.count == 9  # 18000 are spent, and the next may cost 3000
    told = []
    ask(*ROWS, prices=PRICES, budget={"usd": 1.0}, tell=told)
    assert endpoint.count == 50 and told[0] == (41, 9, 5000, 2500)


def test_a_budget_is_passed_by_no_more_than_what_is_in_flight_when_estimates_are_low(ask, endpoint):
    endpoint.usage = (1000, 50)
    for _ in range(2):
        with pytest.raises(BudgetReached):
            ask(*ROWS, budget={"tokens": 10_000}, concurrency=2)
        assert 8 <= endpoint.count <= 9  # 1050 each


def test_a_budget_of_tokens(ask, endpoint):
    with pytest.raises(BudgetReached, match="tokens 1000"):
        ask(*ROWS, budget={"tokens": 1000})
    assert endpoint.count == 6


def test_a_budget_in_money_needs_prices():
    with pytest.raises(ValueError, match="prices are missing"):
        EndpointConfig(model="m", budget={"usd": 1.0})


def test_the_rate_limits_hold(ask, endpoint, monkeypatch):
    from sicog.remote import limits

    clock, sent = FakeClock(), []
    real = limits.SentRequest
    monkeypatch.setattr(limits, "SentRequest", lambda at, tokens: sent.append(real(at, tokens)) or sent[-1])
    ask(*ROWS[:25], clock=clock, requests_per_minute=10)
    assert endpoint.count == 25
    for one in sent:
        assert sum(one.at <= other.at < one.at + 60 for other in sent) <= 10
    assert 120 <= clock.time - 1000 <= 130
    sent.clear()
    ask(*ROWS[:25], clock=clock, tokens_per_minute=400, model="other")  # 200 set aside, 150 in the end
    for one in sent:
        assert sum(other.tokens for other in sent if one.at <= other.at < one.at + 60) <= 400


def test_the_key_is_nowhere(ask, endpoint, tmp_path, capfd, caplog):
    caplog.set_level("DEBUG")
    endpoint.answer = lambda body: f"your key is {KEY}"
    endpoint.faults = [("text", f"{KEY}!"), ("status", (500, {}, KEY)), ("status", (500, {}, KEY))]
    assert ask("a", "b", concurrency=1, attempts=2, clock=FakeClock())[0] == "[key]!"
    escaped = "".join(f"\\u{ord(c):04x}" for c in KEY)
    endpoint.faults = [("raw", f'{{"choices": [{{"message": {{"content": "{escaped}"}}}}]}}')]
    assert ask("d") == ["[key]"]
    endpoint.faults = [("status", (401, {}, KEY))]
    with pytest.raises(EndpointError) as stopped:
        ask("c")
    chain = [stopped.value, stopped.value.__cause__]
    files = b"".join(p.read_bytes() for p in tmp_path.rglob("*") if p.is_file())
    assert KEY not in repr(chain) + "".join(capfd.readouterr()) + caplog.text
    assert KEY.encode() not in files and b"[key]" in files


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"api_key_env": "NO_SUCH_KEY"}, "NO_SUCH_KEY is not set"),
        ({"api_key_env": KEY}, "must be the name of an environment variable"),
        ({"base_url": "http://user:secret@127.0.0.1/v1"}, "give only the address here"),
        ({"base_url": "http://127.0.0.1/v1?key=secret"}, "give only the address here"),
        ({"base_url": "127.0.0.1/v1"}, "must be like https://host/v1"),
    ],
)
def test_what_is_missing_is_said_before_anything_is_written(endpoint, tmp_path, config, says):
    with pytest.raises(ValueError, match=says) as error, connect(endpoint, tmp_path / "answers", **config):
        pass
    assert "secret" not in str(error.value).replace("Put the secret", "") and KEY not in str(error.value)
    assert not (tmp_path / "answers").exists()


def test_a_local_server_needs_no_key(ask, endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    assert ask("x", api_key_env=None) == ["You said: x"]


def test_a_second_process_is_refused(ask, endpoint, tmp_path):
    with connect(endpoint, tmp_path / "answers"), pytest.raises(ValueError, match="another process"):
        ask("x")


def picture(path, size, **save):
    Image.linear_gradient("L").resize(size).convert("RGB").save(path, **save)
    return path


def test_a_picture_is_sent_upright_small_enough_and_as_what_it_is(ask, endpoint, tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    files = {
        "png": (picture(tmp_path / "a.png", (40, 30)), (40, 30), "image/png"),
        "called png": (picture(tmp_path / "b.png", (40, 30), format="JPEG"), (40, 30), "image/jpeg"),
        "large": (picture(tmp_path / "c.png", (400, 100)), (64, 16), "image/jpeg"),
        "turned": (picture(tmp_path / "d.jpg", (40, 30), exif=turned), (30, 40), "image/jpeg"),
        "gif": (picture(tmp_path / "e.gif", (40, 30)), (40, 30), "image/jpeg"),
    }
    for path, size, media in files.values():
        shown = Picture(path, max_side=64)
        ask(Request((Message("user", ("What?", shown)),), temperature=0, max_tokens=9))
        url = endpoint.bodies[-1]["messages"][0]["content"][1]["image_url"]["url"]
        assert url.startswith(f"data:{media};base64,")
        assert shown.size() == size == opened(url).size
    before = endpoint.count
    picture(tmp_path / "a.png", (41, 30))  # other content under the same name is another request
    ask(Request((Message("user", ("What?", Picture(tmp_path / "a.png", 64))),), temperature=0, max_tokens=9))
    assert endpoint.count == before + 1


def opened(url):
    import base64
    import io

    image = Image.open(io.BytesIO(base64.b64decode(re.sub("^data:.*?,", "", url))))
    image.load()
    return image


def test_a_picture_that_does_not_decode_is_not_sent(ask, endpoint, tmp_path):
    (tmp_path / "bad.png").write_bytes(picture(tmp_path / "a.png", (40, 30)).read_bytes()[:-60])
    shown = Picture(tmp_path / "bad.png", 64)
    (error,) = ask(Request((Message("user", ("What?", shown)),), temperature=0, max_tokens=9))
    assert isinstance(error, BadImage) and endpoint.count == 0
