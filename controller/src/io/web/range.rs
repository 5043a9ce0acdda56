//! Which bytes of a file a request wants: one range, with ETag and If-Range as in RFC 9110.
//!
//! Own forty lines rather than a library: a device asks for exactly one range, and what it gets must be provably a part of the
//! very bytes it began with. Several ranges are answered with the whole file, which the RFC allows.
use axum::http::{HeaderMap, header};

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it.
    Whole,
    /// From the first to the last byte, both included.
    Part(u64, u64),
    /// The caller has it already.
    NotModified,
    /// Nothing of the range exists.
    Nothing,
}

/// Decide from the request's headers; `etag` with its quotes.
pub(super) fn wanted(headers: &HeaderMap, etag: &str, length: u64) -> Wanted {
    let text = |name: header::HeaderName| headers.get(name).and_then(|v| v.to_str().ok());
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == etag || tag.trim() == "*")) {
        return Wanted::NotModified;
    }
    // A range of another version of the file would be glued to the wrong beginning.
    if text(header::IF_RANGE).is_some_and(|tag| tag.trim() != etag) {
        return Wanted::Whole;
    }
    text(header::RANGE).map_or(Wanted::Whole, |range| parse(range, length))
}

fn parse(range: &str, length: u64) -> Wanted {
    let Some((first, last)) = range.trim().strip_prefix("bytes=").filter(|r| !r.contains(',')).and_then(|r| r.split_once('-')) else {
        return Wanted::Whole;
    };
    let number = |text: &str| if text.bytes().all(|b| b.is_ascii_digit()) { text.parse::<u64>().ok() } else { None };
    let end = length.saturating_sub(1);
    match (first.trim(), last.trim()) {
        ("", suffix) => match number(suffix) {
            Some(0) => Wanted::Nothing,
            Some(n) if length > 0 => Wanted::Part(length.saturating_sub(n), end),
            Some(_) => Wanted::Nothing,
            None => Wanted::Whole,
        },
        (first, last) => match (number(first), if last.is_empty() { Some(end) } else { number(last) }) {
            (Some(first), Some(last)) if first < length && first <= last => Wanted::Part(first, last.min(end)),
            (Some(first), Some(last)) if first >= length && (first <= last || last == end) => Wanted::Nothing,
            _ => Wanted::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_as_the_rfc_has_them() {
        let table = [
            ("bytes=0-3", Wanted::Part(0, 3)),
            ("bytes=4-", Wanted::Part(4, 9)),
            ("bytes=-3", Wanted::Part(7, 9)),
            ("bytes=-30", Wanted::Part(0, 9)),
            ("bytes=5-500", Wanted::Part(5, 9)),
            ("bytes=9-9", Wanted::Part(9, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=10-20", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=4-3", Wanted::Whole),
            ("bytes=0-1,4-5", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("items=0-3", Wanted::Whole),
            ("bytes=99999999999999999999-", Wanted::Whole),
        ];
        for (range, expected) in table {
            assert_eq!(parse(range, 10), expected, "{range}");
        }
        assert_eq!(parse("bytes=0-", 0), Wanted::Nothing);
    }

    #[test]
    fn another_version_of_the_file_is_sent_whole() {
        let with = |pairs: &[(header::HeaderName, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(name, value.parse().unwrap());
            }
            wanted(&headers, "\"sha256:a\"", 10)
        };
        assert_eq!(with(&[]), Wanted::Whole);
        assert_eq!(with(&[(header::RANGE, "bytes=4-"), (header::IF_RANGE, "\"sha256:a\"")]), Wanted::Part(4, 9));
        assert_eq!(with(&[(header::RANGE, "bytes=4-"), (header::IF_RANGE, "\"sha256:b\"")]), Wanted::Whole);
        assert_eq!(
            with(&[(header::RANGE, "bytes=4-"), (header::IF_RANGE, "W/\"sha256:a\"")]),
            Wanted::Whole,
            "a weak tag never joins ranges"
        );
        assert_eq!(with(&[(header::IF_NONE_MATCH, "\"x\", \"sha256:a\"")]), Wanted::NotModified);
    }
}
