//! As much of HTTP as the server needs: one request a connection.

use std::io::{BufRead, BufReader, Read, Result, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::time::Duration;

/// A request.
#[derive(Debug)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// The path without its query.
    pub path: String,
    /// The query.
    pub query: String,
    headers: Vec<(String, String)>,
}

impl Request {
    /// Reads the head of a request.
    pub fn read(stream: &TcpStream) -> Option<Self> {
        let mut lines = BufReader::new(stream.take(64 << 10)).lines();
        let first = lines.next()?.ok()?;
        let mut words = first.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut headers = Vec::new();
        for line in lines {
            let line = line.ok()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':')?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Some(Self {
            method: method.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            headers,
        })
    }

    /// A header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The bytes of a `Range` header, of a file of this length.
    pub fn range(&self, length: u64) -> Option<Range<u64>> {
        let (start, end) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        let start = start.parse().ok()?;
        let end = end.parse().map_or(length, |last: u64| last + 1).min(length);
        (start < end).then_some(start..end)
    }
}

/// How content is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// The connection ends after so many bytes of content.
    pub cut: Option<u64>,
    /// Bytes in a second.
    pub bytes_per_second: Option<u64>,
}

/// Sends an answer; returns how much of the content went out.
pub fn respond(
    mut stream: &TcpStream,
    request: &Request,
    status: u16,
    headers: &[(&str, String)],
    content: &[u8],
    pace: Pace,
) -> Result<u64> {
    let mut head = format!(
        "HTTP/1.1 {status} x\r\nconnection: close\r\ncontent-length: {}\r\n",
        content.len()
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(0);
    }
    let end = pace
        .cut
        .map_or(content.len(), |cut| content.len().min(cut as usize));
    let mut sent = 0;
    for part in content[..end].chunks(16 << 10) {
        if let Some(rate) = pace.bytes_per_second {
            std::thread::sleep(Duration::from_secs_f64(part.len() as f64 / rate as f64));
        }
        stream.write_all(part)?;
        sent += part.len() as u64;
    }
    Ok(sent)
}
