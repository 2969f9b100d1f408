//! What CRIU's image of the clocks says of the processes whose CLOCK_MONOTONIC is ahead of the kernel's
//! (criu/README.md, 0084). A service's clocks are those of its root.

use super::images::{self, Malformed, TIME};
use crate::image::Clocks;

/// The image.
pub const IMAGE: &str = "timens-0.img";

/// The clocks that the process `root` sees, if they are `kernel` by the kernel. A dump without the image is of an older
/// CRIU.
pub fn seen_by(root: i32, image: Option<&[u8]>, kernel: Clocks) -> Result<Clocks, Malformed> {
    let entries = image.map_or(Ok(Vec::new()), |image| images::entries(image, TIME))?;
    let Some(entry) = entries.first() else { return Ok(kernel) };
    let clocks: images::Time = images::decode(entry)?;
    let Some(shift) = clocks.shifted.iter().find(|task| i64::from(task.pid) == i64::from(root)) else {
        return Ok(kernel);
    };
    let ahead = |seconds: i64| kernel.ahead(seconds.max(0).unsigned_abs());
    Ok(Clocks { boottime_ns: ahead(shift.boottime).boottime_ns, ..ahead(shift.monotonic) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::criu::images::{Shifted, Time, encode};

    const BILLION: u64 = 1_000_000_000;
    const KERNEL: Clocks = Clocks { monotonic_ns: 5, boottime_ns: 7, in_user_space: false };

    #[test]
    fn a_service_sees_what_its_root_sees() {
        let task = |pid, monotonic, boottime| Shifted { pid, monotonic, boottime };
        let image = encode(TIME, &[Time { shifted: vec![task(1001, 9, 9), task(1000, 3, i64::MAX)] }]);
        let seen = seen_by(1000, Some(&image), KERNEL).unwrap();
        assert_eq!(seen, Clocks { monotonic_ns: 3 * BILLION + 5, boottime_ns: u64::MAX, in_user_space: true });
        assert_eq!(seen_by(1002, Some(&image), KERNEL).unwrap(), KERNEL);
    }

    #[test]
    fn without_a_shift_the_clocks_are_the_kernels() {
        let image = encode(TIME, &[Time { shifted: vec![] }]);
        for image in [None, Some(&image[..])] {
            assert_eq!(seen_by(1000, image, KERNEL).unwrap(), KERNEL);
        }
        assert_eq!(seen_by(1000, Some(b"no image"), KERNEL), Err(Malformed));
    }
}
