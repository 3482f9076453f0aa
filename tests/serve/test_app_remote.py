"""Deployments whose ranker holds no vectors, in a Serve of their own: one Serve has one port."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from pipelines.serving.serve import serving
from tests.serve.conftest import Published
from tests.serve.test_app import ASKED, eventually, scores_of, settings_for, wanted_scores


@pytest.mark.ray
def test_a_remote_lookup_a_late_publication_and_a_burst(tmp_path: Path, ray_cluster: None) -> None:
    """It starts before anything is published, takes vectors from the author cache, and sheds what it cannot hold."""
    late = Published(tmp_path / "store")
    late.publish("a", point=False)
    app = settings_for(late.root, lookup="remote", lookup_timeout_s=20.0, admission={"max_waiting": 1})
    with serving(app.serve, app.open()) as url, httpx.Client(base_url=url, timeout=60) as client:
        assert client.get("/healthz").status_code == 503
        not_ready = client.get("/bank")
        assert not_ready.status_code == 503 and "no bank is published" in not_ready.json()["detail"]
        late.point("a")
        eventually(lambda: client.get("/healthz").status_code == 200)
        eventually(lambda: client.get("/bank").status_code == 200)
        answer = client.post("/rank", json=ASKED).json()
        wanted = wanted_scores(late)
        late.delta("a", 1, [0, 4, 10])
        eventually(lambda: client.post("/rank", json=ASKED).json()["bank_delta"] == 1)
        after = client.post("/rank", json=ASKED).json()
        with ThreadPoolExecutor(12) as pool:
            burst = list(pool.map(lambda _: httpx.post(f"{url}/rank", json=ASKED, timeout=60), range(48)))
    assert not answer["degraded"]
    assert {each.status_code for each in burst} == {200, 503}
    assert all("retry-after" in each.headers for each in burst if each.status_code == 503)
    np.testing.assert_allclose(scores_of(answer), wanted, atol=1e-5)
    assert not after["degraded"]
    np.testing.assert_allclose(scores_of(after), wanted_scores(late), atol=1e-5)
