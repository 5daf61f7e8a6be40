//! Numbers for people.

use std::time::Duration;

/// A hash as people write it: lower-case hexadecimal.
pub fn hex(hash: &[u8]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes with a decimal unit and at most one digit after the point: `612 MB`,
/// `3.9 GB`.
pub fn bytes(count: u64) -> String {
    scaled(
        count as f64,
        1000.0,
        &[" B", " kB", " MB", " GB", " TB", " PB"],
    )
}

/// A large count: `135 M`, `7.2 B`.
pub fn count(number: u64) -> String {
    scaled(number as f64, 1000.0, &["", " k", " M", " B", " T", " Q"])
}

/// One digit after the point below ten, none above, none for plain units.
fn scaled(mut number: f64, step: f64, units: &[&str]) -> String {
    let mut place = 0;
    // 999.5 would be shown as 1000.
    while number >= step - 0.5 && place + 1 < units.len() {
        number /= step;
        place += 1;
    }
    let unit = units[place];
    // 9.95 would be shown as 10.0.
    match place > 0 && number < 9.95 {
        true => format!("{number:.1}{unit}"),
        false => format!("{number:.0}{unit}"),
    }
}

/// Minutes and seconds, with hours where there are any: `0:08`, `1:02:03`.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// `4096 x 11008`, or `scalar`.
pub fn shape(dimensions: &[u64]) -> String {
    match dimensions {
        [] => "scalar".into(),
        _ => {
            let parts: Vec<String> = dimensions.iter().map(u64::to_string).collect();
            parts.join(" x ")
        }
    }
}

/// Names of tensors and files come from strangers: what would move the cursor or
/// change colours is shown, not sent.
pub fn printable(message: &str) -> String {
    let escape = |c: char| c.is_control() && c != '\n' && c != '\t';
    if !message.contains(escape) {
        return message.to_owned();
    }
    message
        .chars()
        .map(|c| match escape(c) {
            true => c.escape_default().to_string(),
            false => c.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_two_or_three_digits() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (612_000_000, "612 MB"),
            (999_499, "999 kB"),
            (999_600, "1.0 MB"),
            (9_960_000, "10 MB"),
            (3_900_000_000, "3.9 GB"),
            (u64::MAX, "18447 PB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(count(134_515_008), "135 M");
        assert_eq!(count(12), "12");
    }

    #[test]
    fn durations() {
        assert_eq!(duration(Duration::from_millis(8900)), "0:08");
        assert_eq!(duration(Duration::from_secs(3723)), "1:02:03");
    }

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(printable("a\x1b[31mb"), "a\\u{1b}[31mb");
        assert_eq!(printable("two\nlines"), "two\nlines");
    }
}
