//! The demands of a generation. An older manifest does not record them: then they are derived from CRIU's images in
//! it. Pure.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use super::volumes;
use crate::criu::images::{self, Core, Descriptor, Inet, OpenFile};
use crate::image::{Body, Bound, Demands, Manifest};

/// What a restore of this generation asks.
pub fn of(manifest: &Manifest) -> Cow<'_, Demands> {
    match &manifest.demands {
        Some(demands) if demands.clocks == manifest.clocks => Cow::Borrowed(demands),
        // Older versions of freeze recorded the clocks in the manifest alone.
        Some(demands) => Cow::Owned(Demands { clocks: manifest.clocks, ..demands.clone() }),
        None => Cow::Owned(Demands::default().with(manifest)),
    }
}

impl Demands {
    /// Adds what the rest of the manifest tells. Looks only at images that are in it itself.
    pub fn with(self, manifest: &Manifest) -> Self {
        let highest = inline(manifest, "fdinfo-").flat_map(descriptors).max();
        Self {
            arch: manifest.arch.clone(),
            cpu_features: manifest.cpu_features.clone(),
            saved_registers: manifest.saved_registers,
            uid: manifest.uid,
            capabilities: inline(manifest, "core-").map(capabilities).fold(self.capabilities, |all, one| all | one),
            lowest_pid: manifest.processes.iter().map(|process| process.pid).min().unwrap_or(0),
            highest_id: manifest.highest_id().unwrap_or(0),
            tasks: manifest.processes.iter().map(|process| process.threads.len() as u64).sum(),
            processes: manifest.processes.len() as u64,
            files: volumes::with(self.files, manifest),
            memory: pages(manifest),
            descriptors: self.descriptors.max(highest.map_or(0, |highest| highest + 1)),
            queue: inline(manifest, "ipcns-msg-").flat_map(queues).max().unwrap_or(0),
            clocks: manifest.clocks,
            file: manifest.files.iter().map(|file| file.size).max().unwrap_or(0).max(self.file),
            ..self
        }
    }
}

impl Demands {
    /// Asks no address for the sockets that may be bound to any, according to `files.img`.
    pub fn but_free(self, files: &[u8]) -> Self {
        let free = free_sockets(files);
        let placed = |bound: Bound| if free.contains(&(bound.ip(), bound.port)) { anywhere(bound) } else { bound };
        Self { bound: self.bound.into_iter().map(placed).collect(), ..self }
    }
}

fn pages(manifest: &Manifest) -> u64 {
    let pages = manifest.images.iter().filter(|image| image.name.starts_with("pages-"));
    pages.filter_map(|image| image.body.as_ref()).map(Body::size).sum()
}

/// Small CRIU images are in the manifest itself.
fn inline<'a>(manifest: &'a Manifest, prefix: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let images = manifest.images.iter().filter(move |image| image.name.starts_with(prefix));
    images.filter_map(|image| image.body.as_ref()).map(Body::inline).filter(|data| !data.is_empty())
}

/// The permitted capabilities in a thread's CRIU image.
fn capabilities(image: &[u8]) -> u64 {
    let entries = images::entries(image, images::CORE).unwrap_or_default();
    let cores = entries.into_iter().filter_map(|entry| images::decode::<Core>(entry).ok());
    cores.flat_map(|core| core.permitted()).fold(0, |all, number| all | 1 << number)
}

fn descriptors(image: &[u8]) -> Vec<u64> {
    let entries = images::entries(image, images::FDINFO).unwrap_or_default();
    entries.into_iter().filter_map(|entry| Some(images::decode::<Descriptor>(entry).ok()?.fd.into())).collect()
}

/// Addresses and ports of sockets that may be bound to any address.
fn free_sockets(image: &[u8]) -> BTreeSet<(Option<IpAddr>, u32)> {
    let entries = images::entries(image, images::FILES).unwrap_or_default();
    let inet = entries.into_iter().filter_map(|entry| images::decode::<OpenFile>(entry).ok()?.inet);
    let free = inet.filter(|inet| inet.options.as_ref().is_some_and(|options| options.any_address == Some(true)));
    free.map(|inet| (address(&inet), inet.src_port)).collect()
}

/// A socket of IPv6 may have an address of IPv4 (`::ffff:10.0.0.1`).
fn address(inet: &Inet) -> Option<IpAddr> {
    let address = inet.src_addr.iter().flat_map(|word| word.to_le_bytes()).collect();
    Some(Bound { address, ..Bound::default() }.ip()?.to_canonical())
}

/// The same port at no address of a container.
fn anywhere(bound: Bound) -> Bound {
    Bound { address: vec![0; bound.address.len()], ..bound }
}

fn queues(image: &[u8]) -> Vec<u64> {
    images::queues(image).unwrap_or_default().into_iter().map(|queue| queue.room.into()).collect()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::criu::images::{Credentials, InetOptions, Queue, ThreadCore};
    use crate::image::{CriuImage, File, Process, SavedRegisters};

    fn image<M: prost::Message>(name: &str, magic: u32, entry: M) -> CriuImage {
        CriuImage { name: name.into(), body: Some(Body::from_inline(images::encode(magic, &[entry]))) }
    }

    fn manifest() -> Manifest {
        let creds = Credentials { permitted: vec![1 << 5 | 1 << 10, 1 << (40 - 32)] };
        let core = Core { thread: Some(ThreadCore { creds: Some(creds) }), ..Core::default() };
        Manifest {
            arch: "x86_64".into(),
            cpu_features: vec!["avx2".into(), "bmi2".into()],
            saved_registers: Some(SavedRegisters { components: 0x2e7, bytes: 2440 }),
            uid: 1000,
            processes: vec![Process { pid: 1000, threads: vec![1000, 40_000], ..Process::default() }],
            files: vec![File { size: 77, ..File::default() }],
            images: vec![
                image("core-1000.img", images::CORE, core),
                image("fdinfo-2.img", images::FDINFO, Descriptor { id: 1, fd: 5000 }),
                image("ipcns-msg-1000.img", images::QUEUES, Queue { room: 65_536, messages: 0 }),
                CriuImage { name: "pages-1.img".into(), body: Some(Body::from_inline(vec![1; 4096])) },
            ],
            ..Manifest::default()
        }
    }

    #[test]
    fn the_images_of_an_older_generation_tell_what_they_can() {
        let expected = Demands {
            arch: "x86_64".into(),
            cpu_features: vec!["avx2".into(), "bmi2".into()],
            saved_registers: Some(SavedRegisters { components: 0x2e7, bytes: 2440 }),
            uid: 1000,
            capabilities: 1 << 5 | 1 << 10 | 1 << 40,
            lowest_pid: 1000,
            highest_id: 40_000,
            tasks: 2,
            processes: 1,
            memory: 4096,
            descriptors: 5001,
            queue: 65_536,
            file: 77,
            ..Demands::default()
        };
        assert_eq!(*of(&manifest()), expected);
    }

    #[test]
    fn a_socket_that_may_have_any_address_needs_none() {
        let file = |address: &[u8], port, freely| {
            let words = address.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect();
            let options = Some(InetOptions { any_address: Some(freely) });
            OpenFile {
                inet: Some(Inet { src_port: port, src_addr: words, options, ..Inet::default() }),
                ..OpenFile::default()
            }
        };
        let mapped = "::ffff:10.0.0.2".parse::<Ipv6Addr>().unwrap().octets();
        let here = [10, 0, 0, 2];
        let files = [file(&here, 80, true), file(&here, 81, false), file(&mapped, 82, true), file(&mapped, 83, false)];
        let bound = |address: [u8; 4], port| Bound { address: address.into(), port, datagrams: false };
        let seen = Demands { bound: [80, 81, 82, 83].map(|port| bound(here, port)).into(), ..Demands::default() };
        let expected = [bound([0; 4], 80), bound(here, 81), bound([0; 4], 82), bound(here, 83)];
        assert_eq!(seen.but_free(&images::encode(images::FILES, &files)).bound, expected);
    }

    #[test]
    fn what_is_recorded_counts() {
        let demands = Demands { locked: 5, ..Demands::default() };
        assert_eq!(*of(&Manifest { demands: Some(demands.clone()), ..manifest() }), demands);
    }
}
