//! How the hosts of one blob behave within one try, and what follows: ask on, ask another first, or give up. Pure.
//!
//! Driven by `fetch`, which asks and tells the registry whom to blame: who is blamed is asked after the others, so that a mirror that is
//! ill costs a few requests and not the pull, and the registry behind it does not pay for it.

use std::collections::BTreeMap;

/// How often in a row one blob is asked for again at once after a cut that had brought something. A link that needs more gets
/// a pause.
const RESUMES_MAX: u32 = 100;
/// After so many of these cuts another host is asked first: links are cut now and then, hosts that cut always are ill.
const CUTS_MAX: u32 = 3;
/// How often a host may bring nothing at all.
const FRUITLESS_MAX: u32 = 2;
/// How often the whole blob may turn out wrong: by what an earlier try had left, by a mirror, and by the next host.
const WRONG_MAX: u32 = 3;

/// See the top of the file.
#[derive(Debug, Default)]
pub struct Conduct {
    resumes: u32,
    cuts: BTreeMap<String, u32>,
    fruitless: BTreeMap<String, u32>,
    /// Whose bytes there are, and whether it is the registry itself.
    brought: BTreeMap<String, bool>,
    /// Bytes of an earlier try are among them.
    inherited: bool,
    wrong: u32,
    /// Who sent all of it, and wrong, and in what way.
    liars: BTreeMap<String, String>,
}

/// After an answer that ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    Ask,
    /// Others first.
    BlameAndAsk,
    GiveUp,
}

impl Conduct {
    /// The blob is begun, perhaps with bytes of an earlier try.
    pub fn begin(&mut self, inherited: bool) {
        self.inherited = inherited;
        self.brought.clear();
    }

    pub fn brought(&mut self, host: &str, origin: bool) {
        self.brought.insert(host.to_owned(), origin);
    }

    /// This host's answer ended early.
    pub fn cut(&mut self, host: &str, progressed: bool) -> Next {
        if !progressed {
            let times = self.fruitless.entry(host.to_owned()).or_default();
            *times += 1;
            return if *times < FRUITLESS_MAX { Next::BlameAndAsk } else { Next::GiveUp };
        }
        self.resumes += 1;
        if self.resumes > RESUMES_MAX {
            return Next::GiveUp;
        }
        let cuts = self.cuts.entry(host.to_owned()).or_default();
        *cuts += 1;
        if cuts.is_multiple_of(CUTS_MAX) { Next::BlameAndAsk } else { Next::Ask }
    }

    /// The whole is wrong: whom to blame. Of several hosts it may be any; then the registry itself is believed. None: it was
    /// wrong too often.
    pub fn wrong(&mut self, reason: &str) -> Option<Vec<String>> {
        self.wrong += 1;
        let blamed: Vec<String> = match self.brought.len() {
            // What an earlier try had left is the likelier fault.
            _ if self.inherited => Vec::new(),
            1 => self.brought.keys().cloned().collect(),
            _ => self.brought.iter().filter(|(_, origin)| !**origin).map(|(host, _)| host.clone()).collect(),
        };
        if !self.inherited && self.brought.len() == 1 {
            self.liars.extend(blamed.iter().map(|host| (host.clone(), reason.to_owned())));
        }
        (self.wrong < WRONG_MAX).then_some(blamed)
    }

    /// What was wrong with the whole that this host has sent in this try: asking it again is for the next one.
    pub fn lie_of(&self, host: &str) -> Option<&str> {
        self.liars.get(host).map(String::as_str)
    }

    /// Who sent what there is, for the words of an error.
    pub fn hosts(&self) -> String {
        self.brought.keys().map(String::as_str).collect::<Vec<_>>().join(" and ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_that_brought_something_is_resumed_and_too_many_turn_to_another_host() {
        let mut conduct = Conduct::default();
        let said: Vec<Next> = (0..4).map(|_| conduct.cut("mirror", true)).collect();
        assert_eq!(said, [Next::Ask, Next::Ask, Next::BlameAndAsk, Next::Ask]);
        assert_eq!(conduct.cut("registry", true), Next::Ask, "each host has its own count");
        let last = (0..RESUMES_MAX).map(|_| conduct.cut("registry", true)).last();
        assert_eq!(last, Some(Next::GiveUp));
    }

    #[test]
    fn who_brings_nothing_is_passed_over_at_once_and_given_up_the_second_time() {
        let mut conduct = Conduct::default();
        assert_eq!(conduct.cut("mirror", false), Next::BlameAndAsk);
        assert_eq!(conduct.cut("registry", false), Next::BlameAndAsk);
        assert_eq!(conduct.cut("mirror", false), Next::GiveUp);
    }

    #[test]
    fn wrong_bytes_are_the_fault_of_who_sent_all_of_them_and_never_the_registrys_for_a_mirror() {
        let mut conduct = Conduct::default();
        conduct.begin(false);
        conduct.brought("mirror", false);
        conduct.brought("registry", true);
        assert_eq!(conduct.wrong("other digest"), Some(vec!["mirror".to_owned()]));
        assert_eq!((conduct.lie_of("registry"), conduct.lie_of("mirror")), (None, None), "it may have been the other");
        conduct.begin(false);
        conduct.brought("registry", true);
        assert_eq!(conduct.wrong("other digest"), Some(vec!["registry".to_owned()]));
        assert_eq!(conduct.lie_of("registry"), Some("other digest"));
        assert_eq!(conduct.wrong("other digest"), None, "three times is enough");
    }

    #[test]
    fn wrong_bytes_of_an_earlier_try_are_nobodys_fault() {
        let mut conduct = Conduct::default();
        conduct.begin(true);
        conduct.brought("registry", true);
        assert_eq!(conduct.wrong("other digest"), Some(Vec::new()));
        assert_eq!(conduct.lie_of("registry"), None);
    }
}
