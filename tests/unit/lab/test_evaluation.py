# SPDX-License-Identifier: GPL-2.0-or-later
"""The pure parts of the evaluation: clock, log, statistics, table, picture, report."""

from __future__ import annotations

import calendar
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.evaluation import compare, machine, table
from lab.evaluation.clock import Offset, Sample, measure_offset, pick_best_sample
from lab.evaluation.machine import MAX_TIMEOUT_FACTOR, Machine, OtherLoad
from lab.evaluation.pacemaker_log import What, parse_log_line
from lab.evaluation.picture import draw_timelines
from lab.evaluation.run import Run, make_json_record
from lab.evaluation.setting import scale_timeouts
from lab.evaluation.trial import exit_reason

PREFIX = "Nov 23 19:47:52.863 host-a pacemaker-controld  [465] (log_executor_event) \tnotice: "
STAMP = calendar.timegm((2026, 11, 23, 19, 47, 52)) * 10**9 + 863 * 10**6


# ------------------------------------------------------------ clock


@given(
    offset=st.integers(-(10**18), 10**18),
    exchanges=st.lists(
        st.tuples(st.integers(0, 10**9), st.integers(0, 10**9)), min_size=1, max_size=20
    ),
)
def test_offset_is_within_its_bound(offset: int, exchanges: list[tuple[int, int]]) -> None:
    """Whatever part of the round trip was the way there: the bound holds."""
    now, samples = 10**18, []
    for there, back in exchanges:
        samples.append(Sample(now, now + there - offset, now + there + back))
        now += 10**9
    found = pick_best_sample(samples)
    assert abs(found.ns - offset) <= found.error_ns + 1
    assert found.error_ns == min(there + back for there, back in exchanges) // 2


def test_measuring_a_clock_finds_its_offset() -> None:
    found = measure_offset(lambda: time.time_ns() - 5 * 10**9, times=20)
    assert abs(found.ns - 5 * 10**9) <= found.error_ns
    assert Offset(10**9, 0).convert_time(2 * 10**9) == 3.0


# ------------------------------------------------------------ pacemaker.log


@pytest.mark.parametrize(
    ("text", "what", "host"),
    [
        (
            "Result of monitor operation for vm1 on host-b: error (httpd died)",
            What.FAILED,
            "host-b",
        ),
        ("Result of monitor operation for vm1 on host-b: not running", What.FAILED, "host-b"),
        ("Result of start operation for vm1 on host-b: ok", What.STARTED, "host-b"),
        ("Result of stop operation for vm1 on host-a: ok", What.STOPPED, "host-a"),
        ("Result of stop operation for vm1 on host-a: Timed Out after 60s", What.STUCK, "host-a"),
        ("Requesting local execution of stop operation for vm1 on host-a | x", What.STOP, "host-a"),
        ("Requesting local execution of start operation for vm1 on host-b", What.START, "host-b"),
        ("Setting fail-count-vm1#monitor_1000[host-a]: (unset) -> 1 | x", What.RECORDED, "host-a"),
        ("Setting fail-count-vm1#monitor_1000[host-a]: 1 -> INFINITY", What.RECORDED, "host-a"),
    ],
)
def test_lines_that_mean_something(text: str, what: What, host: str) -> None:
    entry = parse_log_line(PREFIX + text, "vm1", 2026)
    assert entry is not None
    assert (entry.what, entry.host, entry.time_ns) == (what, host, STAMP)


@pytest.mark.parametrize(
    "text",
    [
        "Result of monitor operation for vm1 on host-b: ok",
        "Result of monitor operation for vm1 on host-b: OCF_DEGRADED (no vesperd)",
        "Result of monitor operation for vm1 on host-b: Cancelled",
        "Result of start operation for vm1 on host-b: error",
        "Result of monitor operation for vm12 on host-b: error",
        "Requesting local execution of monitor operation for vm1 on host-b",
        "Setting fail-count-vm1#monitor_1000[host-a]: 1 -> (unset)",
        "Setting last-failure-vm1#monitor_1000[host-a]: (unset) -> 1795463272",
        "State transition S_IDLE -> S_POLICY_ENGINE",
    ],
)
def test_lines_that_mean_nothing(text: str) -> None:
    assert parse_log_line(PREFIX + text, "vm1", 2026) is None


@given(st.text())
def test_any_line_is_survived(line: str) -> None:
    parse_log_line(line, "vm1", 2026)
    parse_log_line(PREFIX + line, "vm1", 2026)


# ------------------------------------------------------------ statistics


def test_median_counts_what_never_happened() -> None:
    assert table.find_median([1.0, 3.0, None]) == 3.0
    assert table.find_median([1.0, None, None]) is None
    assert table.find_median([1.0, 2.0]) == 1.5
    assert table.find_median([]) is None
    assert table.find_spread([2.0, None, 1.0]) == (1.0, 2.0)
    assert table.find_spread([None]) is None


def test_ratio_needs_both() -> None:
    assert table.ratio_of_medians([10.0, 20.0, 30.0], [2.0]) == 10.0
    assert table.ratio_of_medians([None], [2.0]) is None
    assert table.ratio_of_medians([10.0], []) is None


RUNS = [
    Run("sigsegv", "polling", 1e9, None, 8.0, 9.0, 19.0, 20.0, 30.0),
    Run("sigsegv", "polling", 1e9, None, 4.0, 5.0, 15.0, 16.0, 26.0),
    Run(
        "sigsegv",
        "vesper",
        1e9,
        0.02,
        0.5,
        0.9,
        11.0,
        12.0,
        20.0,
        None,
        "httpd[92] <killed> & gone",
        0.004,
    ),
    Run("oom-other", "polling", 1e9),
    Run("oom-other", "vesper", 1e9, 0.03, 0.6, 1.0, 11.0, 12.0, 20.0, None, "out of memory"),
]


def test_table_says_medians_spread_ratio_and_never() -> None:
    text = table.render_table(RUNS)
    row = next(line for line in text.splitlines() if "failure recorded" in line)
    assert "6.0 (4.0 to 8.0)" in row
    assert "0.500" in row
    assert "12.0 x" in row
    assert "never" in text.split("another process")[1]
    assert "Negative" not in text
    early = Run("oom", "vesper", 1e9, -0.008, 0.5, 0.9, 11.0, 12.0, 20.0, None, "out of memory")
    assert "Negative" in table.render_table([*RUNS, early])


def test_comparison_says_at_least_where_the_stop_of_one_has_failed() -> None:
    runs = [
        Run("panic", "polling", 1e9, None, 9.0, 10.0, 12.0, 20.0, 30.0),
        Run("panic", "vesper", 1e9, 0.1, 0.2, 0.5, 2.0, 8.0, 15.0),
        Run("panic-kept", "polling", 1e9, None, 5.0, 6.0, None, None, None, 66.0),
        Run("panic-kept", "vesper", 1e9, 0.1, 0.2, 0.5, 2.0, 8.0, 15.0),
    ]
    found = {(v.fault, v.step): (v.times, v.at_least) for v in compare.make_verdicts(runs)}
    assert found["panic", "stopped_s"] == (6.0, False)
    assert found["panic", "started_elsewhere_s"] == (2.5, False)
    assert found["panic-kept", "stopped_s"] == (33.0, True)
    text = compare.render_markdown(runs)
    assert "| 12.0, 2.0 (6.0 x) |" in text
    assert "| never, 2.0 (> 33.0 x) |" in text


def test_picture_is_xml_and_shows_every_run() -> None:
    image = draw_timelines(RUNS, "a < b")
    root = ElementTree.fromstring(image)
    labels = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert labels.count("not detected") == 1
    assert sum("#" in (label or "") for label in labels) == len(RUNS)
    # Every step that was reached has a mark; the legend has one of each.
    marks = sum(1 for element in root.iter() if element.tag.endswith(("circle", "polygon")))
    assert marks == 6 + 5 + 5 + 6 + 6


def test_report_has_the_agreed_keys() -> None:
    report = json.loads(json.dumps(make_json_record(RUNS, "how it was got")))
    assert len(report) == len(RUNS)
    keys = {"fault", "watch", "fault_at", "seen_s", "recorded_s", "stop_s", "stopped_s",
            "started_elsewhere_s", "service_back_s", "stuck_s", "since_poll_s",
            "others_cpu_share", "exit_reason", "clock"}  # fmt: skip
    assert all(set(run) == keys for run in report)
    assert report[3]["recorded_s"] is None
    assert report[2]["clock"] == {"how": "how it was got", "error_s": 0.004}


def test_exit_reason_as_crm_mon_has_it() -> None:
    xml = b"""<pacemaker-result><failures>
      <failure op_key="other_monitor_0" exitreason="no"/>
      <failure op_key="vm1_monitor_1000" node="host-a" exitreason="httpd[92] killed"/>
    </failures></pacemaker-result>"""
    assert exit_reason(xml) == "httpd[92] killed"
    assert exit_reason(b"<pacemaker-result/>") == ""


def test_exit_reason_is_the_fault_s_own_not_a_degraded_one_nor_another_node_s() -> None:
    xml = b"""<pacemaker-result><failures>
      <failure op_key="vm1_monitor_1000" node="host-b" exitcode="190" exitreason="no probes"/>
      <failure op_key="vm1_monitor_1000" node="host-b" exitcode="1" exitreason="later"/>
      <failure op_key="vm1_monitor_1000" node="host-a" exitcode="1"
               exitreason="httpd&amp;apos;s main process"/>
    </failures></pacemaker-result>"""
    assert exit_reason(xml, "host-a") == "httpd's main process"
    assert exit_reason(xml) == "later"


# ------------------------------------------------------------ the machine


def test_timeouts_grow_with_the_factor_and_intervals_stay() -> None:
    primitive = "op stop timeout=60s interval=0 op monitor interval=10s timeout=30s"
    assert scale_timeouts(primitive, 1.0) == primitive
    assert scale_timeouts(primitive, 2.51) == (
        "op stop timeout=151s interval=0 op monitor interval=10s timeout=76s"
    )


def test_a_slow_or_crowded_machine_gets_more_time() -> None:
    assert Machine(cpus=2, slowness=0.5, runnable=0.0).timeout_factor == 1.0
    assert Machine(cpus=8, slowness=1.0, runnable=5.0).timeout_factor == 1.0
    assert Machine(cpus=1, slowness=1.0, runnable=0.0).timeout_factor == 2.0
    assert Machine(cpus=2, slowness=2.0, runnable=1.0).timeout_factor == 3.0
    assert Machine(cpus=2, slowness=9.0, runnable=12.0).timeout_factor == MAX_TIMEOUT_FACTOR


def test_cpu_time_of_others_is_told_from_the_lab_s_own() -> None:
    """A child that works is the lab's; a process of another parent is not."""
    work = [sys.executable, "-c", "import time\nend=time.time()+60\nwhile time.time()<end: pass"]
    load = OtherLoad()
    with subprocess.Popen(work) as child:
        before = machine._sum_own_cpu_s()
        while child.poll() is None and machine._sum_own_cpu_s() - before < 0.3:
            time.sleep(0.02)
        child.kill()
    own = machine._sum_own_cpu_s() - before
    assert own >= 0.3  # an ended child's time is not lost
    assert 0.0 <= load.measure_share() <= 1.0


def test_table_marks_figures_of_a_busy_machine() -> None:
    run = Run("sigsegv", "vesper", 1e9, 0.02, 0.5, 0.9, 11.0, 12.0, 20.0, others_cpu_share=0.4)
    assert "UNRELIABLE: in 1 of 6 runs other processes used up to 40%" in table.render_table(
        [*RUNS, run]
    )
    assert "UNRELIABLE" not in table.render_table(RUNS)
