//! As much of HTTP/1.1 as a proxy needs: heads, and bodies of a known length or up to the end of the connection.

use std::io::{self, BufRead};

/// A request or a reply.
#[derive(Debug, Clone)]
pub struct Message {
    /// First line and headers, as they came, with the empty line.
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    /// Reads one; none where the peer has closed. What has no length goes to the end of the connection if `to_end`.
    pub fn read(from: &mut impl BufRead, has_body: impl Fn(&str) -> bool, to_end: bool) -> io::Result<Option<Self>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if from.read_line(&mut head)? == 0 {
                return if head.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
        }
        let mut body = Vec::new();
        match header(&head, "content-length") {
            _ if !has_body(&head) => {}
            Some(length) => {
                body.resize(length.parse().map_err(io::Error::other)?, 0);
                from.read_exact(&mut body)?;
            }
            // Chunks are passed on as they are.
            None if to_end => drop(from.read_to_end(&mut body)?),
            None => {}
        }
        Ok(Some(Self { head, body }))
    }

    /// The first word of the first line, and the second.
    pub fn first_words(&self) -> (&str, &str) {
        let mut words = self.head.split([' ', '\r']);
        (words.next().unwrap_or(""), words.next().unwrap_or(""))
    }

    /// Leaves a header out.
    pub fn without(&mut self, name: &str) {
        let keep = |line: &&str| !line.to_ascii_lowercase().starts_with(&format!("{name}:"));
        self.head = self.head.split_inclusive("\r\n").filter(keep).collect();
    }
}

/// The value of a header.
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(':'));
    lines.filter(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).next()
}
