//! What the gateway itself has to say on an IKE SA of a session that came here, and
//! what waits until it is heard.

use std::{
    sync::{OnceLock, Weak},
    time::Duration,
};

use protocol_spec::{
    context::{Context, IkeSa},
    id::SessionId,
    status::{Refusal, Status},
    transfer::IkeFinals,
};

use super::{
    gateway::{Inner, lock},
    ground::{Flow, LetGo},
    life::MOST_TRIES,
    voice::{Announcement, FOLLOWS, Speaker, Told},
};
use crate::ike::{Association, answer::LastResponse};

impl Inner {
    /// Whether the end user of this session could be told its new address.
    pub(super) fn can_tell(&self, context: &Context) -> Result<(), Refusal> {
        let no = |why: String| Err(Refusal::new(Status::NoSteering, why));
        let Some(ike) = &context.ike else { return Ok(()) };
        if self.voice.is_none() {
            return no("nobody here can tell the end user another address".to_owned());
        }
        match Association::new(ike) {
            Ok(_) => Ok(()),
            Err(error) => no(format!("the end user cannot be told another address: {error}")),
        }
    }

    /// Says in IKE what the daemon of an activated session cannot: the last answer once
    /// more, and soon where it is; until then the source relays. The session goes on
    /// whatever becomes of it.
    pub(super) fn speak(&mut self, id: SessionId, finals: &IkeFinals) {
        if self.sessions.get(&id).is_some_and(|session| session.moved) {
            let announcement = Announcement { message_id: finals.next_send, sealed: None };
            self.change(id, |session| session.announcement = Some(announcement));
            self.untold.insert(id, 0);
        }
        let last = finals.last_response.as_deref().map(LastResponse::from_octets);
        let repeated = last.transpose().map_err(|error| error.to_string()).and_then(|last| {
            let (Some(last), Some(voice)) = (last, &self.voice) else { return Ok(()) };
            voice.repeat(id, associate(self.daemon.secrets(id))?, last);
            Ok(())
        });
        if let Err(why) = repeated {
            tracing::warn!(session = %id, %why, "its last answer is not repeated");
        }
    }

    /// Begins the announcements that are due.
    pub(super) fn announce(&mut self) {
        for (id, tries) in std::mem::take(&mut self.untold) {
            if let Err(why) = self.announce_of(id) {
                tracing::warn!(session = %id, %why, "the end user is not told its address yet");
                if tries < MOST_TRIES {
                    self.untold.insert(id, tries + 1);
                }
            }
        }
    }

    fn announce_of(&mut self, id: SessionId) -> Result<(), String> {
        let text = |refusal: Refusal| refusal.to_string();
        let Some(session) = self.sessions.get(&id).filter(|session| session.is_in_use()) else {
            return Ok(());
        };
        let (Some(mut announcement), Some(flow), true) = (
            session.announcement.clone(),
            session.paths.as_ref().map(|paths| paths.flow.clone()),
            self.voice.is_some(),
        ) else {
            return Ok(());
        };
        let association = associate(self.daemon.secrets(id))?;
        announcement.seal(&association).map_err(|error| error.to_string())?;
        let (message_id, sealed) = (announcement.message_id, announcement.clone());
        self.change(id, |session| session.announcement = Some(sealed));
        self.keep().map_err(text)?;
        let speaker = Speaker { association, local: flow.local, remote: flow.remote };
        let me = Weak::clone(&self.me);
        let gate = OnceLock::new();
        let hears = move |told| {
            if told == Told::Followed {
                // Others may be at work: packets do not wait for them.
                return gate.get().into_iter().for_each(|open: &LetGo| open());
            }
            let Some(inner) = me.upgrade() else { return };
            let mut inner = lock(&inner);
            if told == Told::Ended {
                inner.announced(id, message_id);
            } else if let Some(open) = inner.hold_inner(id, message_id, &flow) {
                let _only_one_begins = gate.set(open);
            }
        };
        let Some(voice) = &self.voice else { return Ok(()) };
        voice.announce(id, speaker, announcement, hears).map_err(|error| error.to_string())
    }

    fn announces(&self, id: SessionId, message_id: u32) -> bool {
        let session = self.sessions.get(&id).filter(|session| session.is_in_use());
        let open = session.and_then(|session| session.announcement.as_ref());
        open.is_some_and(|open| open.message_id == message_id)
    }

    /// An end user has no SAs for a moment when it follows: what is for it waits. What
    /// it sends itself passes.
    fn hold_inner(&mut self, id: SessionId, message_id: u32, flow: &Flow) -> Option<LetGo> {
        if !self.announces(id, message_id) {
            return None;
        }
        match self.steer.hold_inner(id, flow) {
            Ok(open) => {
                self.following.insert(id, self.clock.now() + FOLLOWS);
                Some(open)
            }
            Err(refusal) => {
                tracing::warn!(session = %id, %refusal, "packets do not wait");
                None
            }
        }
    }

    /// An announcement has ended, one way or another.
    fn announced(&mut self, id: SessionId, message_id: u32) {
        if self.announces(id, message_id) {
            self.let_go_inner(id);
            self.change(id, |session| session.announcement = None);
            self.keep_if_possible();
        }
    }

    /// Lets packets pass whose end user did not follow in time.
    pub(super) fn let_go_in_time(&mut self, now: Duration) {
        let late = self.following.iter().filter(|(_, until)| **until <= now);
        let late: Vec<SessionId> = late.map(|(id, _)| *id).collect();
        late.into_iter().for_each(|id| self.let_go_inner(id));
    }

    fn let_go_inner(&mut self, id: SessionId) {
        if !self.following.contains_key(&id) {
            return;
        }
        match self.steer.let_go_inner(id) {
            Ok(()) => drop(self.following.remove(&id)),
            // It is tried again.
            Err(refusal) => tracing::warn!(session = %id, %refusal, "packets still wait"),
        }
    }
}

/// Our end of a session's IKE SA.
fn associate(ike: Result<Option<IkeSa>, Refusal>) -> Result<Association, String> {
    let ike = ike.map_err(|refusal| refusal.to_string())?;
    let ike = ike.ok_or("it has no IKE SA")?;
    Association::new(&ike).map_err(|error| error.to_string())
}
