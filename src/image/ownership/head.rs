//! `head`: the store's pointer to the newest generation, and who has the application. Only ever written by a conditional put.

use serde::{Deserialize, Serialize};

use super::lease::Lease;
use crate::image::crypto::store_format::version_of;
use crate::image::crypto::vault::Vault;
use crate::image::error::{Flaw, ImageError, Result};
use crate::image::hex::Hex;
use crate::image::layout::{HEAD, NUMBER_MAX, VERSION, manifest_numbers, marker_key, marker_numbers};
use crate::store::{PutMode, StoreError, Version};

const LIMIT: u64 = 64 * 1024;
/// Most bytes of a mark, which says nothing but that it is there.
const MARKER_LIMIT: u64 = 4096;
/// How often head is looked at again when somebody else wrote it meanwhile.
const ATTEMPTS: usize = 3;

#[derive(Serialize, Deserialize)]
struct Head {
    version: u32,
    /// Its generation is 0 before the first commit: a head is made before any manifest, so that a store with manifests
    /// always has one.
    #[serde(flatten)]
    state: Lease,
    /// The holder is about to offer a generation: whoever waits for one should look often.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    moving: bool,
    mac: Hex<32>,
}

impl Head {
    fn new(vault: &Vault, state: Lease, moving: bool) -> Self {
        let numbers = [state.generation, state.epoch].map(u64::to_le_bytes).concat();
        let moves: &[u8] = if moving { &[1] } else { &[] };
        let bytes = [&VERSION.to_le_bytes()[..], &vault.id().0, &numbers, &state.writer.0, moves].concat();
        Self { version: VERSION, state, moving, mac: Hex(*vault.seal().mac(&bytes).as_bytes()) }
    }

    fn parse(vault: &Vault, data: &[u8]) -> Result<Self> {
        let (url, object) = (vault.url(), HEAD);
        let damaged = |flaw| ImageError::Damaged { url: url.into(), object: object.into(), flaw };
        let found = version_of(data).map_err(damaged)?;
        if found != VERSION {
            return Err(ImageError::Version { url: url.into(), object: object.into(), found, supported: VERSION });
        }
        let head: Head = serde_json::from_slice(data).map_err(|e| damaged(Flaw::Syntax(e.to_string())))?;
        // Compared as hashes are, in constant time.
        let expected = blake3::Hash::from_bytes(Self::new(vault, head.state, head.moving).mac.0);
        if expected != blake3::Hash::from_bytes(head.mac.0) {
            return Err(damaged(if vault.seal().encrypts() { Flaw::Seal } else { Flaw::Hash }));
        }
        bounded(head.state).map_err(damaged)?;
        Ok(head)
    }
}

/// What readers of head accept, so that no writer writes anything else.
fn bounded(state: Lease) -> Result<Lease, Flaw> {
    Flaw::bound("generation", state.generation, NUMBER_MAX)?;
    Flaw::bound("epoch", state.epoch, NUMBER_MAX)?;
    Ok(state)
}

fn read(vault: &Vault) -> Result<Option<(Lease, Version)>> {
    Ok(read_whole(vault)?.map(|(head, version)| (head.state, version)))
}

fn read_whole(vault: &Vault) -> Result<Option<(Head, Version)>> {
    match vault.store().get(HEAD, LIMIT) {
        Ok((data, version)) => Ok(Some((Head::parse(vault, &data)?, version))),
        Err(StoreError::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What head says, if there is one, and whether its holder is about to offer a generation: one request, cheap enough to be made
/// again and again. An old head is not noticed.
pub fn glance(vault: &Vault) -> Result<Option<(Lease, bool)>> {
    Ok(read_whole(vault)?.map(|(head, _)| (head.state, head.moving)))
}

/// Tells those who wait whether the holder of `lease` is about to offer a generation. Changes nothing else, so that nothing depends on
/// it; where head is not this container's yet, or says so already, nothing is done.
pub fn announce(vault: &Vault, lease: &Lease, moving: bool) -> Result<()> {
    match read_whole(vault)? {
        Some((head, version)) if head.state.is_of(lease) && head.moving != moving => {
            Ok(put(vault, head.state, moving, PutMode::Update(version))?)
        }
        _ => Ok(()),
    }
}

/// What head says, if there is one, and if nothing says that it is an old one.
pub(crate) fn current(vault: &Vault) -> Result<Option<Lease>> {
    let url = || vault.url().to_owned();
    let Some((head, _)) = read(vault)? else {
        let begun = !manifest_numbers(&**vault.store())?.is_empty();
        return if begun { Err(ImageError::NoHead { url: url() }) } else { Ok(None) };
    };
    let known = marked(vault, head.generation)?;
    if known <= head.generation {
        return Ok(Some(head));
    }
    // It may have been committed since we looked.
    match read(vault)? {
        Some((head, _)) if head.generation >= known => Ok(Some(head)),
        _ => Err(ImageError::OldHead { url: url(), found: head.generation, known }),
    }
}

/// The highest generation above `known` that an encrypted store says was committed, or `known`.
fn marked(vault: &Vault, known: u64) -> Result<u64> {
    if !vault.seal().encrypts() {
        return Ok(known);
    }
    let Some(number) = marker_numbers(&**vault.store())?.pop().filter(|number| *number > known) else {
        return Ok(known);
    };
    let object = marker_key(number);
    let (data, _) = vault.store().get(&object, MARKER_LIMIT)?;
    match vault.seal().open_message(&object, &data) {
        Ok(_) => Ok(number),
        Err(flaw) => Err(ImageError::Damaged { url: vault.url().into(), object, flaw }),
    }
}

/// The newest committed generation, if there is one.
pub fn newest(vault: &Vault) -> Result<Option<u64>> {
    Ok(current(vault)?.map(|head| head.generation).filter(|generation| *generation > 0))
}

fn put(vault: &Vault, state: Lease, moving: bool, mode: PutMode) -> Result<(), StoreError> {
    let mut text = serde_json::to_vec(&Head::new(vault, state, moving)).expect("numbers and digits can be written");
    text.push(b'\n');
    vault.store().put(HEAD, text.into(), mode)
}

/// Makes sure that there is a head, and returns what it says.
pub(crate) fn ensure(vault: &Vault) -> Result<Lease> {
    if let Some(head) = current(vault)? {
        return Ok(head);
    }
    match put(vault, Lease::default(), false, PutMode::Create) {
        Ok(()) | Err(StoreError::Exists { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    current(vault)?.ok_or_else(|| ImageError::NoHead { url: vault.url().into() })
}

impl Lease {
    /// What head says, if there is one, and if nothing says that it is an old one.
    pub fn of_head(vault: &Vault) -> Result<Option<Self>> {
        current(vault)
    }

    /// For a container that is about to restore the newest generation; None where there is none.
    pub fn for_newest(vault: &Vault) -> Result<Option<Self>> {
        Ok(Self::of_head(vault)?.filter(|head| head.generation > 0).map(|head| Self::after(&head)))
    }

    /// Tells all others that this container has the application now. They learn of it at their next checkpoint, or look. Of two
    /// that claim at once one gets [`ImageError::Replaced`], also where nothing was committed yet.
    pub fn claim(&self, vault: &Vault) -> Result<()> {
        if self.generation == 0 {
            ensure(vault)?;
        }
        advance(vault, self, self.generation).map(drop).map_err(|failure| failure.error)
    }

    /// Whether a commit would be refused by now, so that a service need not be frozen for nothing.
    pub fn check(&self, vault: &Vault) -> Result<()> {
        match current(vault)? {
            Some(head) => self.check_against(&head, vault),
            None => Ok(()),
        }
    }

    /// As [`next`](Self::next), and whether a head of generation 0 is an old one.
    pub(crate) fn check_against(&self, head: &Lease, vault: &Vault) -> Result<()> {
        let known = self.generation;
        if head.generation == 0 && known > 0 && manifest_numbers(&**vault.store())?.contains(&known) {
            return Err(ImageError::OldHead { url: vault.url().into(), found: 0, known });
        }
        self.next(head, known, vault.url()).map(drop)
    }
}

/// Why head does not name a generation, as far as is known.
#[derive(Debug)]
pub struct NotCommitted {
    /// What happened.
    pub error: ImageError,
    /// Head was, is, or may yet be what it was to be: the reply was lost, and the request may still be under way.
    pub may_count: bool,
}

impl<E: Into<ImageError>> From<E> for NotCommitted {
    fn from(error: E) -> Self {
        Self { error: error.into(), may_count: false }
    }
}

/// Lets head name `generation` and the holder of `lease`, unless that has lost it. Returns what head says then.
///
/// An error says no more than what is certain. A put that failed may have succeeded, and even been followed by another
/// container's; or it may be carried out later, as long as head is what the put was to replace.
pub(crate) fn advance(vault: &Vault, lease: &Lease, generation: u64) -> Result<Lease, NotCommitted> {
    let mut failed: Option<(StoreError, Version)> = None;
    for _ in 0..ATTEMPTS {
        let found = read(vault).and_then(|head| head.ok_or_else(|| ImageError::NoHead { url: vault.url().into() }));
        let sent = failed.is_some();
        let (head, version) = match (found, failed.take()) {
            (Ok((_, version)), Some((error, replaced)))
                if version == replaced && !matches!(error, StoreError::Changed { .. }) =>
            {
                return Err(NotCommitted { may_count: !is_refusal(&error), error: error.into() });
            }
            (Ok(found), _) => found,
            (Err(_), Some((error, _))) => return Err(NotCommitted { error: error.into(), may_count: true }),
            (Err(error), None) => return Err(error.into()),
        };
        // What an earlier put was to replace is gone for good, so that is over; but head may have been ours before it was another's.
        let may_count = sent && head.generation >= generation;
        let next = lease.next(&head, generation, vault.url()).map_err(|error| NotCommitted { error, may_count })?;
        let next =
            bounded(next).map_err(|flaw| ImageError::Damaged { url: vault.url().into(), object: HEAD.into(), flaw })?;
        if head == next {
            return Ok(next);
        }
        match put(vault, next, false, PutMode::Update(version.clone())) {
            Ok(()) => return Ok(next),
            Err(error) => failed = Some((error, version)),
        }
    }
    Err(failed.map_or(ImageError::Ended.into(), |(error, _)| NotCommitted { error: error.into(), may_count: true }))
}

/// Whether nothing is under way any more. Only of a folder is that known: a server may have had an earlier attempt that it
/// still works on.
fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::NoSpace { .. } | StoreError::Denied { .. } | StoreError::ReadOnly { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzz;
    use crate::image::test_vault;
    use proptest::prelude::*;

    fn state(generation: u64) -> Lease {
        Lease { generation, epoch: 3, writer: Hex([9; 8]) }
    }

    fn text(vault: &Vault, generation: u64) -> Vec<u8> {
        serde_json::to_vec(&Head::new(vault, state(generation), false)).unwrap()
    }

    #[test]
    fn head_is_readable() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let text = String::from_utf8(text(&vault, 12)).unwrap();
        let (known, mac) = text.split_at(text.find("mac").unwrap());
        assert_eq!(known, r#"{"version":2,"generation":12,"epoch":3,"writer":"0909090909090909",""#);
        assert_eq!(mac.len(), r#"mac":""}"#.len() + 64);
        assert_eq!(Head::parse(&vault, text.as_bytes()).unwrap().state, state(12));
    }

    #[test]
    fn a_head_of_another_store_or_by_hand_is_refused() {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [one, two] = folders.each_ref().map(|folder| test_vault(folder.path()));
        assert!(Head::parse(&two, &text(&one, 1)).is_err());
        let by_hand = String::from_utf8(text(&one, 1)).unwrap().replace("\"generation\":1,", "\"generation\":2,");
        assert!(matches!(Head::parse(&one, by_hand.as_bytes()), Err(ImageError::Damaged { flaw: Flaw::Hash, .. })));
        let absurd = text(&one, u64::MAX);
        assert!(matches!(Head::parse(&one, &absurd), Err(ImageError::Damaged { flaw: Flaw::Bound { .. }, .. })));
    }

    #[test]
    fn what_is_about_to_move_is_told_by_its_holder_alone_and_until_the_next_change() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let lease = Lease::fresh();
        lease.claim(&vault).unwrap();
        let held = glance(&vault).unwrap().unwrap().0;
        announce(&vault, &Lease { writer: Hex([3; 8]), ..held }, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((held, false)));
        announce(&vault, &held, true).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((held, true)));
        let next = advance(&vault, &held, 1).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((next, false)));
        let by_hand = text(&vault, 1);
        let by_hand = String::from_utf8(by_hand).unwrap().replace("\"mac\"", "\"moving\":true,\"mac\"");
        assert!(matches!(Head::parse(&vault, by_hand.as_bytes()), Err(ImageError::Damaged { .. })));
    }

    #[test]
    fn fuzz_any_text_parses_or_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        proptest!(|(data in prop::collection::vec(any::<u8>(), 0..200), text in "[{}\":,a-z0-9]{0,80}")| {
            prop_assert!(Head::parse(&vault, &data).is_err());
            prop_assert!(Head::parse(&vault, text.as_bytes()).is_err());
        });
    }

    #[test]
    fn fuzz_damaged_text_parses_to_what_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let whole = text(&vault, 12);
        proptest!(|(at in any::<prop::sample::Index>(), bit in 0..8, edits in fuzz::edits())| {
            let mut flipped = whole.clone();
            flipped[at.index(whole.len())] ^= 1u8 << bit;
            prop_assert!(Head::parse(&vault, &flipped).is_err());
            if let Ok(parsed) = Head::parse(&vault, &fuzz::damaged(&whole, &edits)) {
                prop_assert_eq!(parsed.state, state(12));
            }
        });
    }

    /// With the right hash.
    #[test]
    fn fuzz_forged_numbers_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let vault = test_vault(folder.path());
        let number = || prop_oneof![any::<u64>(), 0..10u64, NUMBER_MAX - 2..NUMBER_MAX + 3];
        proptest!(|(generation in number(), epoch in number(), writer: [u8; 8])| {
            let state = Lease { generation, epoch, writer: Hex(writer) };
            let text = serde_json::to_vec(&Head::new(&vault, state, false)).unwrap();
            let fits = generation <= NUMBER_MAX && epoch <= NUMBER_MAX;
            prop_assert_eq!(Head::parse(&vault, &text).ok().map(|head| head.state), fits.then_some(state));
        });
    }

    #[test]
    fn of_those_that_claim_an_empty_store_one_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let vault = crate::image::test_vault(folder.path());
        let (one, two) = (Lease::fresh(), Lease::fresh());
        one.claim(&vault).unwrap();
        one.claim(&vault).unwrap();
        assert!(matches!(two.claim(&vault), Err(ImageError::Replaced { .. })));
        assert!(matches!(two.check(&vault), Err(ImageError::Replaced { .. })));
        one.check(&vault).unwrap();
        assert_eq!(one.next(&one, 1, "").unwrap(), Lease { generation: 1, ..one });
        // One that waited until it was deserted.
        let head = Lease::of_head(&vault).unwrap().unwrap();
        let heir = Lease::after(&head);
        heir.claim(&vault).unwrap();
        assert_eq!(glance(&vault).unwrap(), Some((heir, false)));
        assert!(matches!(one.check(&vault), Err(ImageError::Replaced { .. })));
        assert_eq!(newest(&vault).unwrap(), None);
    }
}
