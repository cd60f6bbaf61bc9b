//! The timeline picture: what was published and delivered, how late, and when something was broken.
//!
//! SVG 1.1 by hand: three panels over one time axis, faults shaded over all of them.

use std::fmt::Write as _;
use std::time::Duration;

use crate::checker::Verdict;
use crate::ledger::{At, Fault, Ledger, Outcome, What};

const WIDTH: f64 = 1000.0;
/// Room for the axes' labels.
const LEFT: f64 = 70.0;
const RIGHT: f64 = 20.0;
/// Room for the title and the faults' names.
const TOP: f64 = 92.0;
const PANEL: f64 = 110.0;
const GAP: f64 = 34.0;
const HEIGHT: f64 = TOP + 3.0 * (PANEL + GAP) + 10.0;
/// The least time one bar stands for.
const BUCKET: Duration = Duration::from_millis(100);
/// More bars than this are narrower than can be seen: then each stands for more time.
const MAX_BUCKETS: usize = 1000;
/// Names of faults close to each other stand in so many lines.
const NAME_LINES: usize = 3;

/// Colours that can be distinguished on white and on black.
const STYLE: &str = "\
.page{fill:#fff}.text{fill:#222;font:12px sans-serif}.title{font-size:15px;font-weight:bold}\
.axis{stroke:#888;stroke-width:1}.acked{fill:#2b6cb0}.delivered{fill:#2f855a}\
.delay{fill:none;stroke:#b7410e;stroke-width:1.5}.fault{fill:#d33;fill-opacity:.16}\
@media (prefers-color-scheme:dark){.page{fill:#14171a}.text{fill:#ddd}.axis{stroke:#777}\
.acked{fill:#63a4e8}.delivered{fill:#5fbf8a}.delay{stroke:#ff9a5c}.fault{fill:#f66;fill-opacity:.22}}";

/// The picture of a run.
pub fn svg(name: &str, ledger: &Ledger, verdict: &Verdict) -> String {
    let scale = Scale::of(ledger.end());
    let acked = ledger.attempts.iter().filter(|attempt| matches!(attempt.outcome, Outcome::Acked { .. }));
    let acked = scale.count(acked.map(|attempt| attempt.ended));
    let came = ledger.heard.iter().filter(|heard| matches!(heard.what, What::Delivery(_)));
    let delivered = scale.count(came.map(|heard| heard.at));
    let each = scale.bucket.as_millis();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n\
         <title>{0}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"page\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n\
         <text class=\"text title\" x=\"{LEFT}\" y=\"24\">{0}</text>\n",
        escaped(name),
    );
    svg.push_str(&panel(
        0,
        &format!("acknowledged in {each} ms"),
        &acked.iter().max().unwrap_or(&0).to_string(),
    ));
    svg.push_str(&bars(&scale, 0, "acked", &acked));
    let most = delivered.iter().max().unwrap_or(&0).to_string();
    svg.push_str(&panel(1, &format!("delivered in {each} ms"), &most));
    svg.push_str(&bars(&scale, 1, "delivered", &delivered));
    let delays = scale.worst(&verdict.delays);
    let worst = delays.iter().flatten().max().map_or(0, Duration::as_millis);
    svg.push_str(&panel(2, &format!("worst delay in {each} ms"), &format!("{worst} ms")));
    svg.push_str(&line(&scale, 2, &delays));
    svg.push_str(&time_axis(&scale));
    svg.push_str(&faults(&scale, &ledger.faults));
    svg.push_str("</svg>\n");
    svg
}

/// How times become places.
struct Scale {
    end: Duration,
    bucket: Duration,
}

impl Scale {
    fn of(end: At) -> Self {
        let end = end.max(BUCKET);
        let buckets = end.as_millis().div_ceil(BUCKET.as_millis());
        let wider = buckets.div_ceil(MAX_BUCKETS as u128).try_into().unwrap_or(u32::MAX);
        Self { end, bucket: BUCKET * wider }
    }

    fn x(&self, at: At) -> f64 {
        LEFT + (WIDTH - LEFT - RIGHT) * (at.as_secs_f64() / self.end.as_secs_f64()).min(1.0)
    }

    fn bucket_of(&self, at: At) -> usize {
        usize::try_from(at.as_micros() / self.bucket.as_micros()).unwrap_or_default()
    }

    fn start_of(&self, bucket: usize) -> At {
        self.bucket * u32::try_from(bucket).unwrap_or(u32::MAX)
    }

    fn count(&self, times: impl Iterator<Item = At>) -> Vec<u64> {
        let mut counts = vec![0; self.bucket_of(self.end) + 1];
        for at in times {
            counts[self.bucket_of(at)] += 1;
        }
        counts
    }

    fn worst(&self, delays: &[(At, Duration)]) -> Vec<Option<Duration>> {
        let mut worst = vec![None; self.bucket_of(self.end) + 1];
        for (at, delay) in delays {
            let slot = &mut worst[self.bucket_of(*at)];
            *slot = (*slot).max(Some(*delay));
        }
        worst
    }
}

fn bottom_of(panel: u32) -> f64 {
    TOP + f64::from(panel) * (PANEL + GAP) + PANEL
}

fn faults(scale: &Scale, faults: &[Fault]) -> String {
    let mut svg = String::new();
    for (index, fault) in faults.iter().enumerate() {
        let (from, to) = (scale.x(fault.begun), scale.x(fault.healed));
        // A fault of a moment is still to be seen.
        let (width, height) = ((to - from).max(1.5), bottom_of(2) - TOP);
        let name = escaped(&fault.name);
        _ = writeln!(
            svg,
            "<rect class=\"fault\" x=\"{from:.1}\" y=\"{TOP}\" width=\"{width:.1}\" height=\"{height}\">\
             <title>{name}</title></rect>"
        );
        // A name that begins on the right half grows to the left, to stay on the page.
        let anchor = if from > WIDTH / 2.0 { "end" } else { "start" };
        let x = if from > WIDTH / 2.0 { to.max(from + 1.5) } else { from };
        let y = 44 + 15 * (index % NAME_LINES);
        _ = writeln!(
            svg,
            "<text class=\"text\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{name}</text>"
        );
    }
    svg
}

fn panel(number: u32, title: &str, most: &str) -> String {
    let (bottom, end, label) = (bottom_of(number), WIDTH - RIGHT, LEFT - 6.0);
    let (top, title_at) = (bottom - PANEL, bottom - PANEL - 5.0);
    format!(
        "<path class=\"axis\" d=\"M{LEFT} {top}V{bottom}H{end}\" fill=\"none\"/>\n\
         <text class=\"text\" x=\"{LEFT}\" y=\"{title_at}\">{}</text>\n\
         <text class=\"text\" x=\"{label}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\n\
         <text class=\"text\" x=\"{label}\" y=\"{bottom}\" text-anchor=\"end\">0</text>\n",
        escaped(title),
        top + 10.0,
        escaped(most),
    )
}

fn bars(scale: &Scale, panel: u32, class: &str, counts: &[u64]) -> String {
    let mut svg = String::new();
    let most = counts.iter().copied().max().unwrap_or_default();
    for (bucket, count) in counts.iter().copied().enumerate().filter(|(_, count)| *count > 0) {
        let (from, to) = (scale.x(scale.start_of(bucket)), scale.x(scale.start_of(bucket + 1)));
        let height = PANEL * ratio(count, most);
        let (y, width) = (bottom_of(panel) - height, (to - from).max(0.5));
        _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.2}\" height=\"{height:.1}\"/>"
        );
    }
    svg
}

/// A line through the worst of each bucket; it breaks where nothing came.
fn line(scale: &Scale, panel: u32, delays: &[Option<Duration>]) -> String {
    let most = delays.iter().flatten().max().copied().unwrap_or_default();
    let mut path = String::new();
    let mut is_drawing = false;
    for (bucket, delay) in delays.iter().enumerate() {
        if let Some(delay) = delay {
            let x = scale.x(scale.start_of(bucket) + scale.bucket / 2);
            let share = if most.is_zero() { 0.0 } else { delay.as_secs_f64() / most.as_secs_f64() };
            let y = bottom_of(panel) - PANEL * share;
            // A short stroke, so that a bucket between two empty ones is seen.
            let stroke = if is_drawing { format!("L{x:.1} {y:.1}") } else { format!("M{x:.1} {y:.1}h0.8") };
            path.push_str(&stroke);
        }
        is_drawing = delay.is_some();
    }
    if path.is_empty() { path } else { format!("<path class=\"delay\" d=\"{path}\"/>\n") }
}

/// About ten marks, at whole steps of 1, 2 or 5.
fn time_axis(scale: &Scale) -> String {
    let seconds = scale.end.as_secs_f64();
    let magnitude = 10f64.powf((seconds / 10.0).log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * magnitude);
    let step = steps.into_iter().find(|step| seconds / step <= 10.0).unwrap_or(seconds);
    let y = bottom_of(2) + 16.0;
    let mut svg = String::new();
    let mut mark = 0.0;
    while mark <= seconds {
        let x = scale.x(Duration::from_secs_f64(mark));
        let digits = if step < 1.0 { 2 } else { 0 };
        _ = writeln!(
            svg,
            "<text class=\"text\" x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{mark:.digits$} s</text>"
        );
        mark += step;
    }
    svg
}

#[expect(clippy::cast_precision_loss, reason = "a picture has no use for more")]
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// A text as XML (XML 1.0 §2.4); what XML cannot hold at all is replaced.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            character if character.is_control() || matches!(character, '\u{fffe}' | '\u{ffff}') => {
                safe.push('\u{fffd}');
            }
            character => safe.push(character),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checker::{Promises, check};
    use crate::ledger::{Attempt, Audience, Delivery, Heard, Listener};

    /// Three acknowledgements, two of them in one bucket, and a late delivery of each but the first.
    fn ledger(fault: &str) -> Ledger {
        let millis = Duration::from_millis;
        let mut ledger = Ledger { listeners: vec![Listener::default()], ..Ledger::default() };
        let mut hear = |at: u64, what: What| {
            ledger.heard.push(Heard { listener: 0, connection: 1, at: millis(at), what });
        };
        hear(0, What::Opened { address: "a".into(), cursor_sent: None, status: Some(200) });
        hear(0, What::Stamp { raw_id: "e-0".into() });
        for (position, at) in [(1, 110), (2, 150), (3, 1230)] {
            let id = format!("id{position}");
            let delivery = Delivery {
                raw_id: format!("e-{position}"),
                event_id: id.as_str().into(),
                position,
                key: id.as_str().into(),
                priority: carillon::event::Priority::Normal,
                event_type: "t".into(),
            };
            if position > 1 {
                hear(at + 300, What::Delivery(delivery));
            }
            ledger.attempts.push(Attempt {
                key: id.clone(),
                publisher: 0,
                audience: Audience::Everyone,
                priority: carillon::event::Priority::Normal,
                event_type: "t".into(),
                expires: None,
                sent: millis(at - 5),
                ended: millis(at),
                outcome: Outcome::Acked { id, position },
            });
        }
        ledger.faults.push(Fault { name: fault.into(), begun: millis(200), healed: millis(900) });
        ledger
    }

    fn picture(name: &str, ledger: &Ledger) -> String {
        svg(name, ledger, &check(ledger, &Promises::default()))
    }

    /// That tags are closed in order, attributes quoted, and no stray `<` or `&` is in a text.
    fn assert_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        for piece in svg.split('<').skip(1) {
            let (tag, text) = piece.split_once('>').expect("a tag that ends");
            assert!(!text.contains('>') && tag.matches('"').count() % 2 == 0, "{piece}");
            for entity in piece.split('&').skip(1) {
                let name = entity.split_once(';').expect("an entity that ends").0;
                assert!(["amp", "lt", "gt", "quot", "#39"].contains(&name), "{entity}");
            }
            if let Some(closed) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(closed));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().unwrap());
            }
        }
        assert!(open.is_empty(), "{open:?} are not closed");
    }

    #[test]
    fn bars_faults_and_delays_are_drawn() {
        let svg = picture("a run", &ledger("bus dead"));
        assert_well_formed(&svg);
        let count = |class: &str| svg.matches(&format!("class=\"{class}\"")).count();
        // Two acknowledgements share a bar.
        assert_eq!((count("acked"), count("delivered"), count("fault"), count("delay")), (2, 2, 1, 1));
        for text in
            ["acknowledged in 100 ms", ">300 ms<", ">bus dead<", "prefers-color-scheme:dark", ">1.00 s<"]
        {
            assert!(svg.contains(text), "{text} is not in {svg}");
        }
    }

    #[test]
    fn texts_cannot_break_the_picture() {
        let nasty = "<script>\"&'</svg>\u{1}]]>";
        let svg = picture(nasty, &ledger(nasty));
        assert_well_formed(&svg);
        assert!(!svg.contains("<script") && !svg.contains('\u{1}'));
        assert!(svg.contains("&lt;script&gt;&quot;&amp;&#39;"));
    }

    #[test]
    fn an_empty_run_and_a_long_one_have_a_picture() {
        assert_well_formed(&picture("empty", &Ledger::default()));
        let mut long = ledger("f");
        long.faults[0].healed = Duration::from_secs(3600);
        let svg = picture("long", &long);
        assert_well_formed(&svg);
        assert!(svg.contains("acknowledged in 3600 ms") && svg.len() < 100_000);
    }

    #[test]
    fn the_axis_has_a_few_marks_whatever_the_time() {
        for millis in [1, 90, 100, 999, 1000, 12_345, 3_600_000] {
            let axis = time_axis(&Scale::of(Duration::from_millis(millis)));
            assert!((4..=12).contains(&axis.lines().count()), "{millis}: {axis}");
        }
    }
}
