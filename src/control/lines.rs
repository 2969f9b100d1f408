//! JSON lines over a stream that may split and join them anywhere. Never buffers more than [`MAX_LINE`]
//! bytes.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use super::protocol::MAX_LINE;

/// Assembles lines from reads.
#[derive(Debug, Default)]
pub struct Lines {
    buffer: Vec<u8>,
}

/// Result of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Got {
    /// At least one byte.
    Bytes,
    /// The read would block, timed out or was interrupted.
    Nothing,
    /// The peer closed its end.
    End,
}

impl Lines {
    /// Reads once from the stream.
    ///
    /// # Errors
    /// The stream's own, and `InvalidData` for a line longer than [`MAX_LINE`].
    pub fn read(&mut self, stream: &mut impl Read) -> io::Result<Got> {
        let held = self.buffer.len();
        if held >= MAX_LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a line of more than {MAX_LINE} bytes")));
        }
        self.buffer.resize(MAX_LINE, 0);
        let read = stream.read(self.buffer.get_mut(held..).unwrap_or_default());
        self.buffer.truncate(held + read.as_ref().map_or(0, |count| (*count).min(MAX_LINE - held)));
        match read {
            Ok(0) => Ok(Got::End),
            Ok(_) => Ok(Got::Bytes),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(Got::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Takes and parses the next complete line, if the buffer has one.
    pub fn next_line<T: DeserializeOwned>(&mut self) -> Option<serde_json::Result<T>> {
        let end = self.buffer.iter().position(|byte| *byte == b'\n')?;
        let parsed = serde_json::from_slice(self.buffer.get(..end).unwrap_or_default());
        self.buffer.drain(..=end);
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        }
        Some(parsed)
    }
}

/// Writes a message as one line.
///
/// # Errors
/// The stream's own. A non-blocking stream fails with `WouldBlock` if its buffer is full, as the peer does
/// not read.
pub fn write(stream: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    stream.write_all(&line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &mut Lines, bytes: &[u8]) -> io::Result<Got> {
        lines.read(&mut io::Cursor::new(bytes))
    }

    #[test]
    fn a_line_comes_in_pieces_and_two_lines_in_one() {
        let mut lines = Lines::default();
        read(&mut lines, b"[1,").unwrap();
        assert!(lines.next_line::<Vec<u8>>().is_none());
        read(&mut lines, b"2]\n[3]\n[").unwrap();
        assert_eq!(lines.next_line::<Vec<u8>>().unwrap().unwrap(), [1, 2]);
        assert_eq!(lines.next_line::<Vec<u8>>().unwrap().unwrap(), [3]);
        assert!(lines.next_line::<Vec<u8>>().is_none());
    }

    #[test]
    fn the_longest_line_is_read_and_a_longer_one_is_an_error() {
        let mut lines = Lines::default();
        let mut longest = vec![b' '; MAX_LINE - 1];
        longest[0] = b'7';
        longest.push(b'\n');
        read(&mut lines, &longest).unwrap();
        assert_eq!(lines.next_line::<u8>().unwrap().unwrap(), 7);
        read(&mut lines, &vec![b' '; MAX_LINE]).unwrap();
        assert!(lines.next_line::<u8>().is_none());
        assert_eq!(read(&mut lines, b"\n").unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn what_is_no_json_is_an_error_and_the_next_line_is_read() {
        let mut lines = Lines::default();
        read(&mut lines, b"\xff\xfe\n1\n").unwrap();
        assert!(lines.next_line::<u8>().unwrap().is_err());
        assert_eq!(lines.next_line::<u8>().unwrap().unwrap(), 1);
    }

    #[test]
    fn the_end_is_noticed() {
        assert_eq!(read(&mut Lines::default(), b"").unwrap(), Got::End);
    }
}
