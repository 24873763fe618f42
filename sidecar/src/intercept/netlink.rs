//! Changes of network rules, told to the kernel: all of them, or none.

use std::{
    io::{self, Read as _},
    time::Duration,
};

use netlink_packet_core::{DecodeError, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily, NetfilterSubsystem, none::ControlMessage,
};
use socket2::{Domain, Protocol, Socket, Type};

// What linux/socket.h and linux/netlink.h call AF_NETLINK and NETLINK_NETFILTER.
const AF_NETLINK: i32 = 16;
const NETLINK_NETFILTER: i32 = 12;

/// How long the kernel may take to answer. It does so before the request returns.
const PATIENCE: Duration = Duration::from_secs(10);

/// One change.
#[derive(Debug)]
pub(super) struct Step {
    /// What it does, for whoever reads that it failed.
    pub(super) what: String,
    pub(super) message: NetlinkMessage<NetfilterMessage>,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CommitError {
    #[error("network rules may not be changed here: the step needs the capability NET_ADMIN")]
    NotPermitted,
    #[error(
        "the kernel cannot {what}: {error}; it needs the modules nf_tables, nft_redir, nft_fib_inet and nft_socket"
    )]
    Unsupported { what: String, error: io::Error },
    #[error("the kernel refused to {what}: {error}")]
    Refused { what: String, error: io::Error },
    #[error("the kernel's answer is not understood: {0}")]
    Answer(#[from] DecodeError),
    #[error("the kernel cannot be told of network rules: {0}")]
    Io(#[from] io::Error),
}

/// Makes all changes at once, or none.
pub(super) fn commit(mut steps: Vec<Step>) -> Result<(), CommitError> {
    let socket = Socket::new(
        Domain::from(AF_NETLINK),
        Type::RAW,
        Some(Protocol::from(NETLINK_NETFILTER)),
    )?;
    socket.set_read_timeout(Some(PATIENCE))?;
    if let Some(last) = steps.last_mut() {
        // A failure is told of in any case; only when all has gone well there is nothing to hear otherwise.
        last.message.header.flags |= NLM_F_ACK;
    }
    let last = steps.len() as u32;
    socket.send(&batch(&mut steps))?;
    let mut socket = &socket;
    let mut answer = vec![0; 64 * 1024];
    loop {
        let length = socket.read(&mut answer)?;
        let mut rest = &answer[..length];
        while !rest.is_empty() {
            let message = NetlinkMessage::<NetfilterMessage>::deserialize(rest)?;
            let (number, length) = (message.header.sequence_number, message.header.length as usize);
            if let NetlinkPayload::Error(answer) = message.payload {
                match answer.code {
                    Some(code) => return Err(refusal(&steps, number, code.get())),
                    None if number == last => return Ok(()),
                    None => {}
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

fn refusal(steps: &[Step], number: u32, code: i32) -> CommitError {
    let error = io::Error::from_raw_os_error(-code);
    let step = (number as usize).checked_sub(1).and_then(|at| steps.get(at));
    let what = step.map_or("make the change", |step| &step.what).to_owned();
    match error.kind() {
        io::ErrorKind::PermissionDenied => CommitError::NotPermitted,
        // What loads a module looks for it by name.
        io::ErrorKind::NotFound | io::ErrorKind::Unsupported => CommitError::Unsupported { what, error },
        _ => CommitError::Refused { what, error },
    }
}

/// The steps, numbered from 1, between the messages that make them one.
fn batch(steps: &mut [Step]) -> Vec<u8> {
    let header = NetfilterHeader::new(
        NetfilterProtoFamily::Unspec,
        0,
        u8::from(NetfilterSubsystem::NfTables).into(),
    );
    let frame = |message| NetlinkMessage::from(NetfilterMessage::new(header.clone(), message));
    let mut bytes = Vec::new();
    append(&mut bytes, &mut frame(ControlMessage::BatchBegin), 0);
    for (at, step) in steps.iter_mut().enumerate() {
        append(&mut bytes, &mut step.message, at as u32 + 1);
    }
    append(&mut bytes, &mut frame(ControlMessage::BatchEnd), steps.len() as u32 + 1);
    bytes
}

fn append(bytes: &mut Vec<u8>, message: &mut NetlinkMessage<NetfilterMessage>, number: u32) {
    message.header.flags |= NLM_F_REQUEST;
    message.header.sequence_number = number;
    message.finalize();
    let start = bytes.len();
    bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
    message.serialize(&mut bytes[start..][..message.buffer_len()]);
}
