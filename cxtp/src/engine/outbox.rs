//! Gathers what one input makes the engine want, so that many sessions share one
//! output, and splits what would be too large for a message.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::{Hash, Hasher},
};

use protocol_spec::{
    context::{Context, IkeSecrets},
    id::{BatchId, Generation, Identity, Name, RequestId, Role, SessionEpoch, SessionId},
    limits::{MAX_BODY, MAX_ENTRIES},
    message::{
        Ctc, Ctd, CtdEntry, Ctdr, CtdrEntry, Grant, Lane, Message, Pctd, PctdEntry, Query,
        QueryAnswer,
    },
    status::Refusal,
    transfer::{Finals, TransferMode},
};

use super::{Event, GatewayCommand, Output, Record, Reply, SaNumbers, StageOrder};

/// Contexts in one message: enough to share its cost, few enough that the target
/// begins to stage while the rest is still on its way.
const CONTEXTS: usize = 256;
/// Estimated octets of the contexts or final data in one message.
pub(crate) const FILL: usize = MAX_BODY / 2;
/// Sessions in one act of the gateway.
const ACTS: usize = MAX_ENTRIES;

/// Transfers of one batch that are taken back, and why the first of them is.
#[derive(Debug, Default)]
struct Cancelled {
    reason: Option<Refusal>,
    entries: Vec<(SessionId, SessionEpoch)>,
}

/// What is wanted and was not taken yet. Not part of the engine's state: a copy
/// of an engine starts with an empty one, since contexts are never copied.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Output>,
    pub(super) snapshot: Vec<SessionId>,
    pub(super) pause: Vec<(SessionId, Name, Option<Generation>)>,
    pub(super) resume: Vec<(SessionId, SessionEpoch, SaNumbers)>,
    pub(super) stage: Vec<StageOrder>,
    pub(super) activate: Vec<(SessionId, SessionEpoch, Finals)>,
    pub(super) release: Vec<(SessionId, SessionEpoch, Name)>,
    pub(super) discard: Vec<(SessionId, SessionEpoch)>,
    pub(super) extend: Vec<(SessionId, SessionEpoch, SaNumbers)>,
    pub(super) records: Vec<Record>,
    pctd: BTreeMap<(Name, BatchId), (TransferMode, usize, Vec<PctdEntry>)>,
    ctd: BTreeMap<(Name, BatchId), (usize, Vec<CtdEntry>)>,
    ctdr: BTreeMap<(Name, BatchId), Vec<CtdrEntry>>,
    ctc: BTreeMap<(Name, BatchId), Cancelled>,
    query: BTreeMap<Name, Vec<(SessionId, SessionEpoch, BatchId)>>,
    answer: BTreeMap<(Name, RequestId), Vec<CtdrEntry>>,
    grant: BTreeMap<Name, Vec<(SessionId, SessionEpoch, SaNumbers)>>,
}

impl Clone for Outbox {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl PartialEq for Outbox {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Outbox {}

impl Hash for Outbox {
    fn hash<H: Hasher>(&self, _: &mut H) {}
}

/// A gateway, as a peer.
pub(super) fn gateway(name: &Name) -> Identity {
    Identity { role: Role::Gateway, name: name.clone() }
}

/// Octets of a context on the wire, from above and without encoding it.
pub(crate) fn estimate(context: &Context) -> usize {
    let secrets = context.ike.as_ref().map_or(0, |ike| {
        let keys = match &ike.secrets {
            IkeSecrets::Seed { nonce_initiator, nonce_responder, shared, .. } => {
                nonce_initiator.len()
                    + nonce_responder.len()
                    + shared.iter().map(|key| key.len() + 8).sum::<usize>()
                    + 1024
            }
            IkeSecrets::Keys(_) => 1024,
        };
        512 + keys
            + ike.local_id.data.len()
            + ike.remote_id.data.len()
            + ike.configuration.len()
            + ike.eap_identity.as_ref().map_or(0, String::len)
            + 17 * ike.peer_addresses.len()
            + ike.virtual_ips.iter().map(|ip| 32 + ip.pool.len()).sum::<usize>()
    });
    let children: usize = context
        .children
        .iter()
        .map(|child| {
            let (inbound, outbound) = (&child.inbound.keys, &child.outbound.keys);
            let keys = inbound.encryption.len()
                + inbound.integrity.len()
                + outbound.encryption.len()
                + outbound.integrity.len();
            512 + keys
                + child.configuration.len()
                + 5 * child.inbound.window.bitmap.len()
                + 64 * child.policies.len()
        })
        .sum();
    64 + secrets + children
}

fn estimate_finals(finals: &Finals) -> usize {
    let response = finals.ike.as_ref().and_then(|ike| ike.last_response.as_ref());
    let windows: usize =
        finals.children.iter().map(|child| 128 + 5 * child.window.bitmap.len()).sum();
    96 + response.map_or(0, Vec::len) + windows
}

impl Outbox {
    pub(super) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(super) fn reply(&mut self, request: RequestId, reply: Reply) {
        self.queue.push_back(Output::Reply { request, reply });
    }

    pub(super) fn command(&mut self, command: GatewayCommand) {
        self.queue.push_back(Output::Gateway(command));
    }

    pub(super) fn send(&mut self, to: Identity, lane: Lane, message: Message) {
        self.queue.push_back(Output::Send { to, lane, message });
    }

    pub(super) fn pctd(&mut self, to: &Name, batch: BatchId, mode: TransferMode, entry: PctdEntry) {
        let key = (to.clone(), batch);
        let size = estimate(&entry.context) + 32 * entry.grants.len();
        if self
            .pctd
            .get(&key)
            .is_some_and(|(_, full, all)| all.len() >= CONTEXTS || full.saturating_add(size) > FILL)
            && let Some((mode, _, entries)) = self.pctd.remove(&key)
        {
            let message = Message::Pctd(Pctd { batch, mode, entries });
            self.send(gateway(to), Lane::Bulk, message);
        }
        let (_, full, entries) = self.pctd.entry(key).or_insert_with(|| (mode, 0, Vec::new()));
        *full += size;
        entries.push(entry);
    }

    pub(super) fn ctd(&mut self, to: &Name, batch: BatchId, entry: CtdEntry) {
        let key = (to.clone(), batch);
        let size = estimate_finals(&entry.finals);
        if self
            .ctd
            .get(&key)
            .is_some_and(|(full, all)| all.len() >= MAX_ENTRIES || full.saturating_add(size) > FILL)
            && let Some((_, entries)) = self.ctd.remove(&key)
        {
            self.send(gateway(to), Lane::Bulk, Message::Ctd(Ctd { batch, entries }));
        }
        let (full, entries) = self.ctd.entry(key).or_default();
        *full += size;
        entries.push(entry);
    }

    pub(super) fn ctdr(&mut self, to: &Name, batch: BatchId, entry: CtdrEntry) {
        self.ctdr.entry((to.clone(), batch)).or_default().push(entry);
    }

    pub(super) fn answer(&mut self, to: &Name, request: RequestId, entry: CtdrEntry) {
        self.answer.entry((to.clone(), request)).or_default().push(entry);
    }

    pub(super) fn ctc(
        &mut self,
        to: &Name,
        batch: BatchId,
        entry: (SessionId, SessionEpoch),
        reason: &Refusal,
    ) {
        let cancelled = self.ctc.entry((to.clone(), batch)).or_default();
        cancelled.reason.get_or_insert_with(|| reason.clone());
        cancelled.entries.push(entry);
    }

    pub(super) fn query(&mut self, to: &Name, entry: (SessionId, SessionEpoch, BatchId)) {
        self.query.entry(to.clone()).or_default().push(entry);
    }

    pub(super) fn grant(&mut self, to: &Name, entry: (SessionId, SessionEpoch, SaNumbers)) {
        self.grant.entry(to.clone()).or_default().push(entry);
    }

    /// Turns everything gathered into outputs. `ticket` names the records.
    /// Messages to a peer that is not `up` are dropped: whatever waits for their
    /// answer asks again once it is.
    pub(super) fn flush(&mut self, ticket: u64, up: impl Fn(&Identity) -> bool) {
        self.flush_gateway();
        let records = std::mem::take(&mut self.records);
        if !records.is_empty() {
            self.queue.push_back(Output::Journal { ticket, records });
        }
        self.flush_messages(up);
    }

    fn flush_gateway(&mut self) {
        let queue = &mut self.queue;
        let mut out = |command| queue.push_back(Output::Gateway(command));
        chunks(&mut self.snapshot, |part| out(GatewayCommand::Snapshot(part)));
        chunks(&mut self.stage, |part| out(GatewayCommand::Stage(part)));
        chunks(&mut self.pause, |part| out(GatewayCommand::Pause(part)));
        chunks(&mut self.resume, |part| out(GatewayCommand::Resume(part)));
        chunks(&mut self.activate, |part| out(GatewayCommand::Activate(part)));
        chunks(&mut self.release, |part| out(GatewayCommand::Release(part)));
        chunks(&mut self.discard, |part| out(GatewayCommand::Discard(part)));
        chunks(&mut self.extend, |part| out(GatewayCommand::Extend(part)));
    }

    fn flush_messages(&mut self, up: impl Fn(&Identity) -> bool) {
        let queue = &mut self.queue;
        let mut out = |to: &Name, lane, message| {
            let to = gateway(to);
            if up(&to) {
                queue.push_back(Output::Send { to, lane, message });
            }
        };
        for ((to, batch), mut cancelled) in std::mem::take(&mut self.ctc) {
            let Some(reason) = cancelled.reason else { continue };
            chunks(&mut cancelled.entries, |entries| {
                let reason = reason.clone();
                out(&to, Lane::Bulk, Message::Ctc(Ctc { batch, entries, reason }));
            });
        }
        for ((to, batch), (mode, _, entries)) in std::mem::take(&mut self.pctd) {
            out(&to, Lane::Bulk, Message::Pctd(Pctd { batch, mode, entries }));
        }
        for ((to, batch), (_, entries)) in std::mem::take(&mut self.ctd) {
            out(&to, Lane::Bulk, Message::Ctd(Ctd { batch, entries }));
        }
        for ((to, batch), mut all) in std::mem::take(&mut self.ctdr) {
            chunks(&mut all, |entries| {
                out(&to, Lane::Bulk, Message::Ctdr(Ctdr { batch, entries }));
            });
        }
        for (to, mut all) in std::mem::take(&mut self.query) {
            chunks(&mut all, |transfers| {
                // Answers are recognised by session and epoch; the number only
                // has to differ between questions about different sessions.
                let request = RequestId(transfers.first().map_or([0; 16], |entry| entry.0.0));
                out(&to, Lane::Control, Message::Query(Query { request, transfers }));
            });
        }
        for ((to, request), mut all) in std::mem::take(&mut self.answer) {
            chunks(&mut all, |entries| {
                out(&to, Lane::Control, Message::QueryAnswer(QueryAnswer { request, entries }));
            });
        }
        for (to, mut all) in std::mem::take(&mut self.grant) {
            chunks(&mut all, |entries| {
                out(&to, Lane::Control, Message::Grant(Grant { entries }));
            });
        }
    }

    /// The next output.
    pub(super) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}

/// Hands all of `items` to `each` in parts that fit one act or message.
fn chunks<T>(items: &mut Vec<T>, mut each: impl FnMut(Vec<T>)) {
    let all = std::mem::take(items);
    if all.len() <= ACTS {
        if !all.is_empty() {
            each(all);
        }
        return;
    }
    let mut rest = all.into_iter().peekable();
    while rest.peek().is_some() {
        each(rest.by_ref().take(ACTS).collect());
    }
}
