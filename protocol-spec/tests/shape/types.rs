//! Every type of a message, field by field in the order of the wire.

use protocol_spec::{
    context::{
        Authentication, ChildSa, ChildSeed, ChildTransforms, Context, Direction, Endpoints,
        Extensions, Identification, IkeKeys, IkeSa, IkeSecrets, IkeTransforms, InboundSa, Lifetime,
        LifetimeLimit, LifetimeUsed, Load, Mark, Mode, Nat, Native, OutboundSa, Policy, Prefix,
        Protocol, ReplacedSa, ReplayWindow, SaKeys, Selector, SideEffects, UdpEncapsulation,
        VirtualIp,
    },
    message::{
        Authority, Bye, CtReq, Ctaa, Ctar, Ctc, Ctd, CtdEntry, Ctdr, CtdrEntry, Grant, Heartbeat,
        Hello, Lane, Message, Pctd, PctdEntry, Preflight, PreflightAnswer, Query, QueryAnswer,
        ReplicaAck, ReplicaDelta, ReplicaEntry, TargetState,
    },
    profile::{Capabilities, ChildProfile, Profile},
    token::{Order, OrderClaims, Token, TokenClaims},
    transfer::{ChildFinals, Finals, GrantedRange, IkeFinals, SaRef, SaUse, TransferMode},
};

use super::{Entropy, Shape, enums, structs};

enums! {
    Message {
        0: Ctar(m), 1: Ctaa(m), 2: Ctd(m), 3: Pctd(m), 4: Ctdr(m), 5: Ctc(m), 6: CtReq(m),
        7: Hello(m), 8: Heartbeat(m), 9: Query(m), 10: QueryAnswer(m), 11: Preflight(m),
        12: PreflightAnswer(m), 13: Grant(m), 14: Bye(m), 15: ReplicaDelta(m), 16: ReplicaAck(m),
    }
    Authority { 0: Token(t), 1: Order(o), 2: Known(r), 3: Standby }
    TargetState {
        0: Staged { generation }, 1: Refused { refusal, known }, 2: Active, 3: Aborted(r),
    }
    Lane { 0: Control, 1: Bulk }
    TransferMode { 0: Predictive, 1: Reactive }
    IkeSecrets { 0: Seed { nonce_initiator, nonce_responder, shared, replaced }, 1: Keys(k) }
    Authentication { 0: Method(m), 1: Eap(m) }
    Protocol { 0: Esp, 1: Ah }
    Mode { 0: Tunnel, 1: Transport, 2: Beet }
    Direction { 0: In, 1: Out, 2: Forward }
}

structs! {
    Ctar { request, source, target, mode, sessions, authority }
    Ctaa { request, refused }
    CtReq { request, sessions, authority }
    Pctd { batch, mode, entries }
    PctdEntry { epoch, grants, context }
    Ctd { batch, entries }
    CtdEntry { session, epoch, finals }
    Ctdr { batch, entries }
    CtdrEntry { session, epoch, state }
    Ctc { batch, entries, reason }
    Hello { versions, name, epoch, lane, capabilities }
    Heartbeat { number, epoch, echo }
    Query { request, transfers }
    QueryAnswer { request, entries }
    Preflight { request, profiles }
    PreflightAnswer { request, refused }
    Grant { entries }
    Bye { reason }
    ReplicaDelta { number, complete, entries }
    ReplicaEntry { session, epoch, context }
    ReplicaAck { number }

    Token { claims, mac }
    TokenClaims { session, ike_spis, source, target, mode, sequence, expires }
    Order { claims, signature }
    OrderClaims { id, controller, sessions, source, target, expires }

    Capabilities { features, child_transforms, ike_transforms, max_replay_window, max_sessions }
    Profile {
        session, generation, features, ike_spis, ike_transforms, configuration, side_effects,
        virtual_ips, children,
    }
    ChildProfile { usage, transforms, replay_window, reqid, destinations }
    SaRef { protocol, inbound_spi }
    SaUse { sa, sequence, rate, esn }
    GrantedRange { sa, base, end }
    Finals { generation, ike, children }
    IkeFinals { next_send, next_receive, last_response }
    ChildFinals { sa, sequence, window, used }

    Context { session, generation, ike, children, load }
    IkeSa {
        spi_initiator, spi_responder, initiator, version, transforms, secrets, window, next_send,
        next_receive, local_id, remote_id, eap_identity, authentication, local, remote, nat,
        extensions, peer_addresses, virtual_ips, rekey_in, reauthenticate_in, expire_in,
        configuration, side_effects, native,
    }
    IkeTransforms { encryption, key_bits, integrity, prf, key_exchange }
    ReplacedSa { prf, sk_d }
    IkeKeys { sk_d, sk_ai, sk_ar, sk_ei, sk_er, sk_pi, sk_pr }
    Identification { kind, data }
    Nat { local, remote }
    Extensions { mobike, fragmentation, message_id_sync, replay_counter_sync, redirect }
    VirtualIp { address, pool }
    SideEffects { hooks, accounting }
    ChildSa {
        protocol, mode, configuration, reqid, cpi, transforms, esn, inbound, outbound, policies,
        encapsulation, pmtu, mark, if_id, lifetime, rekey_in, seed, endpoints,
    }
    ChildSeed { initiator, nonce_initiator, nonce_responder, shared }
    Endpoints { local, remote }
    Native { dialect, conditions, extensions }
    ChildTransforms { encryption, key_bits, integrity }
    SaKeys { encryption, integrity }
    InboundSa { spi, keys, window }
    OutboundSa { spi, keys, sequence }
    ReplayWindow { size, highest, bitmap }
    Selector { prefix, ports }
    Prefix { address, bits }
    Policy { direction, priority, source, destination, protocol }
    UdpEncapsulation { local_port, remote_port }
    Mark { value, mask }
    Lifetime { used, soft, hard }
    LifetimeUsed { octets, packets, age, since_first_use }
    LifetimeLimit { octets, packets, age, since_first_use }
    Load { packets_per_second, octets_per_second }
}
