//! One HTTP/1.1 answer out of the bytes that came: a whole one, not yet one, or a sentence that says what is wrong.
//!
//! Looks at all bytes each time and keeps nothing between, so a target costs no memory while it is not being asked.

use httparse::{EMPTY_HEADER, Error, Header, Response, Status, parse_chunk_size, parse_headers};

/// Longest status line with header fields.
pub const HEAD_LIMIT: usize = 8 << 10;
/// Most header fields.
const FIELDS: usize = 64;
/// Longest body.
pub const BODY_LIMIT: usize = 16 << 10;
/// More bytes than this belong to no answer that is within the limits, however it is cut into chunks.
pub const RAW_LIMIT: usize = HEAD_LIMIT + 2 * BODY_LIMIT;

/// A whole answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Body, chunks joined.
    pub body: Vec<u8>,
    /// The connection may be used again.
    pub reusable: bool,
}

/// How the end of a body is found.
#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

/// Reads an answer; `None` while it is not complete. `closed` says that nothing more will come.
///
/// # Errors
/// A sentence that says why this will never be an answer.
pub fn parse(bytes: &[u8], closed: bool) -> Result<Option<Answer>, String> {
    let mut rest = bytes;
    loop {
        let mut fields = [EMPTY_HEADER; FIELDS];
        let mut head = Response::new(&mut fields);
        let length = match head.parse(rest) {
            Ok(Status::Complete(length)) if length <= HEAD_LIMIT => length,
            Ok(Status::Partial) if rest.len() <= HEAD_LIMIT => return unfinished("", closed),
            Ok(_) => {
                return Err(format!(
                    "the head of the answer is longer than {HEAD_LIMIT} bytes"
                ));
            }
            Err(Error::TooManyHeaders) => {
                return Err(format!("the answer has more than {FIELDS} header fields"));
            }
            Err(_) => return Err("the answer is not HTTP".into()),
        };
        rest = &rest[length..];
        let status = head.code.unwrap_or_default();
        if (100..200).contains(&status) && status != 101 {
            continue; // the real one follows
        }
        let prefix = format!("HTTP {status}: ");
        let framing = framing(status, head.headers).map_err(|what| format!("{prefix}{what}"))?;
        let keeps = head.version == Some(1) && !says(head.headers, "connection", "close");
        let body = match framing {
            Framing::Length(length) if length > BODY_LIMIT => return Err(too_long(&prefix)),
            Framing::Length(length) => rest.get(..length).map(|body| (body.to_vec(), length)),
            Framing::Chunked => joined(rest).map_err(|what| format!("{prefix}{what}"))?,
            Framing::UntilClosed if rest.len() > BODY_LIMIT => return Err(too_long(&prefix)),
            Framing::UntilClosed => closed.then(|| (rest.to_vec(), rest.len())),
        };
        let Some((body, used)) = body else {
            return unfinished(&prefix, closed);
        };
        if body.len() > BODY_LIMIT {
            return Err(too_long(&prefix));
        }
        return Ok(Some(Answer {
            status,
            body,
            reusable: keeps && !closed && used == rest.len() && !matches!(framing, Framing::UntilClosed),
        }));
    }
}

fn unfinished(prefix: &str, closed: bool) -> Result<Option<Answer>, String> {
    match closed {
        false => Ok(None),
        true => Err(format!(
            "{prefix}connection closed before the answer was complete"
        )),
    }
}

fn too_long(prefix: &str) -> String {
    format!("{prefix}the answer is longer than {BODY_LIMIT} bytes")
}

/// RFC 9112 §6.3.
fn framing(status: u16, fields: &[Header]) -> Result<Framing, String> {
    if matches!(status, 204 | 304) {
        return Ok(Framing::Length(0));
    }
    if values(fields, "transfer-encoding").next().is_some() {
        return match says(fields, "transfer-encoding", "chunked") {
            true => Ok(Framing::Chunked),
            false => Err("unknown transfer encoding".into()),
        };
    }
    let mut lengths = values(fields, "content-length");
    let Some(length) = lengths.next() else {
        return Ok(Framing::UntilClosed);
    };
    match std::str::from_utf8(length)
        .ok()
        .and_then(|text| text.parse().ok())
    {
        Some(number) if lengths.all(|other| other == length) => Ok(Framing::Length(number)),
        _ => Err("unusable Content-Length".into()),
    }
}

fn values<'a>(fields: &'a [Header], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    fields
        .iter()
        .filter(move |field| field.name.eq_ignore_ascii_case(name))
        .map(|field| field.value.trim_ascii())
}

/// Does a field that holds a list name this token?
fn says(fields: &[Header], name: &str, token: &str) -> bool {
    values(fields, name)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

/// The chunks joined, and how many bytes they took; `None` while the last one is not there.
fn joined(bytes: &[u8]) -> Result<Option<(Vec<u8>, usize)>, String> {
    let mut body = Vec::new();
    let mut at = 0;
    loop {
        let (head, size) = match parse_chunk_size(&bytes[at..]) {
            Ok(Status::Complete(found)) => found,
            Ok(Status::Partial) => return Ok(None),
            Err(_) => return Err("garbled chunk".into()),
        };
        at += head;
        if size == 0 {
            let mut trailer = [EMPTY_HEADER; FIELDS];
            return match parse_headers(&bytes[at..], &mut trailer) {
                Ok(Status::Complete((length, _))) => Ok(Some((body, at + length))),
                Ok(Status::Partial) => Ok(None),
                Err(_) => Err("garbled trailer".into()),
            };
        }
        if size > BODY_LIMIT as u64 || body.len() > BODY_LIMIT {
            return Err(format!("the answer is longer than {BODY_LIMIT} bytes"));
        }
        let end = at + size as usize;
        let Some(chunk) = bytes.get(at..end) else {
            return Ok(None);
        };
        body.extend_from_slice(chunk);
        match bytes.get(end..end + 2) {
            Some(b"\r\n") => at = end + 2,
            Some(_) => return Err("garbled chunk".into()),
            None => return Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Status, body and `+` if the connection may be used again; `…` if incomplete; or the sentence.
    fn shown(text: &str, closed: bool) -> String {
        match parse(text.as_bytes(), closed) {
            Ok(Some(answer)) => {
                let body = String::from_utf8_lossy(&answer.body).into_owned();
                format!(
                    "{} {body}{}",
                    answer.status,
                    if answer.reusable { " +" } else { "" }
                )
            }
            Ok(None) => "…".into(),
            Err(sentence) => sentence,
        }
    }

    #[test]
    fn answers() {
        let open: &[(&str, &str)] = &[
            ("", "…"),
            ("HTTP/1.1 200 OK\r\n", "…"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "…"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok +"),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nContent-Length: 2\r\n\r\nok",
                "200 ok +",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
                "200 ok",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: Close\r\n\r\nok",
                "200 ok",
            ),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok"),
            ("HTTP/1.1 204 No Content\r\n\r\n", "204  +"),
            (
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n",
                "503  +",
            ),
            ("HTTP/1.1 200 OK\r\n\r\nno length", "…"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n3;x=y\r\nay!\r\n0\r\n\r\n",
                "200 okay! +",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n",
                "…",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\r\n\r\n",
                "200  +",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokay\r\n",
                "HTTP 200: garbled chunk",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\n",
                "HTTP 200: the answer is longer than 16384 bytes",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
                "HTTP 200: unknown transfer encoding",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
                "HTTP 200: unusable Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
                "HTTP 200: unusable Content-Length",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 20000\r\n\r\n",
                "HTTP 200: the answer is longer than 16384 bytes",
            ),
            ("SSH-2.0-OpenSSH_9.2\r\n", "the answer is not HTTP"),
            ("HTTP/2.0 200 OK\r\n\r\n", "the answer is not HTTP"),
        ];
        for (text, expected) in open {
            assert_eq!(shown(text, false), *expected, "{text:?}");
        }
        let closed: &[(&str, &str)] = &[
            ("HTTP/1.1 200 OK\r\n\r\nno length", "200 no length"),
            (
                "HTTP/1.1 200 OK\r\n",
                "connection closed before the answer was complete",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
                "HTTP 200: connection closed before the answer was complete",
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "200 ok"),
        ];
        for (text, expected) in closed {
            assert_eq!(shown(text, true), *expected, "{text:?}");
        }
    }

    #[test]
    fn limits_of_the_head() {
        let long = format!("HTTP/1.1 200 OK\r\nA: {}", "x".repeat(HEAD_LIMIT));
        let whole = format!("{long}\r\nContent-Length: 0\r\n\r\n");
        let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(FIELDS + 1));
        let expected = "the head of the answer is longer than 8192 bytes";
        assert_eq!(shown(&long, false), expected);
        assert_eq!(shown(&whole, false), expected);
        assert_eq!(shown(&many, false), "the answer has more than 64 header fields");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400), closed: bool) {
            let _ = parse(&bytes, closed);
            let mut chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            chunked.extend(bytes);
            let _ = parse(&chunked, closed);
        }

        #[test]
        fn a_whole_answer_is_read_at_its_last_byte_and_not_before(
            body in "[a-z]{0,40}",
            chunks in proptest::option::of(1usize..10),
        ) {
            let text = match chunks {
                None => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()),
                Some(size) => {
                    let pieces: String = body
                        .as_bytes()
                        .chunks(size)
                        .map(|piece| format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece)))
                        .collect();
                    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{pieces}0\r\n\r\n")
                }
            };
            for length in 0..text.len() {
                prop_assert_eq!(parse(&text.as_bytes()[..length], false), Ok(None));
                prop_assert!(parse(&text.as_bytes()[..length], true).is_err());
            }
            let answer = Answer { status: 200, body: body.into_bytes(), reusable: true };
            prop_assert_eq!(parse(text.as_bytes(), false), Ok(Some(answer)));
        }
    }
}
