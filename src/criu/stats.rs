//! CRIU's figures of a dump (`stats-dump`). Only reports use them, so any fault of the file means "not
//! known".

use std::path::Path;

use prost::Message;

/// In the work folder.
const FILE: &str = "stats-dump";

/// Two 32-bit magic numbers and the length of the only entry (criu/image.c).
const HEADER: usize = 12;

#[derive(Clone, PartialEq, Message)]
struct StatsEntry {
    #[prost(message, optional, tag = "1")]
    dump: Option<DumpStats>,
}

#[derive(Clone, PartialEq, Message)]
struct DumpStats {
    /// Microseconds.
    #[prost(uint32, optional, tag = "2")]
    frozen_time: Option<u32>,
}

/// Milliseconds for which the tasks stood still; none if the dump left no figures.
pub fn frozen_ms(work: &Path) -> Option<u64> {
    let bytes = std::fs::read(work.join(FILE)).ok()?;
    parse(&bytes)
}

fn parse(bytes: &[u8]) -> Option<u64> {
    let entry = StatsEntry::decode(bytes.get(HEADER..)?).ok()?;
    Some(u64::from(entry.dump?.frozen_time?) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frozen_time_is_read() {
        let entry = StatsEntry { dump: Some(DumpStats { frozen_time: Some(12_345) }) };
        let mut bytes = vec![0; HEADER];
        bytes.extend(entry.encode_to_vec());
        assert_eq!(parse(&bytes), Some(12));
    }

    #[test]
    fn rubbish_is_not_known() {
        assert_eq!(parse(b"short"), None);
        assert_eq!(parse(&[0xff; 40]), None);
    }
}
