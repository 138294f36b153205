//! Where the frames of a WebSocket begin and end (RFC 6455 section 5.2), without looking at what is in them.
//!
//! In: the bytes of one direction as they come; out: how many of them may go on, and what is wrong with the first that may not. Only
//! headers are read; payload is counted past, never kept. What must stay true: a header goes on whole or not at all, so that a fault
//! is always found on a frame boundary, where a Close can still be said. With an extension agreed the reserved bits are its own.

/// The longest header: two bytes, eight of length, four of mask.
pub const LONGEST_HEADER: usize = 14;

/// The peer closes with this when it is told nothing worse (RFC 6455 section 7.4.1).
pub const GOING_AWAY: u16 = 1001;
pub const PROTOCOL_ERROR: u16 = 1002;
pub const POLICY_VIOLATION: u16 = 1008;

const CONTINUATION: u8 = 0;
const CLOSE: u8 = 8;

/// Who sends the frames of a direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// Its frames are masked (RFC 6455 section 5.1).
    Client,
    /// Its frames are not.
    Server,
}

/// What breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("a frame of the client is not masked")]
    Unmasked,
    #[error("a frame of the server is masked")]
    Masked,
    #[error("a frame has a reserved bit and no extension was agreed on")]
    ReservedBit,
    #[error("a frame has an opcode nobody defined")]
    Opcode,
    #[error("a control frame is fragmented or longer than 125 bytes")]
    Control,
    #[error("a message begins within another, or goes on before it began")]
    Sequence,
    #[error("a frame's length is not written in its shortest form")]
    Length,
}

/// One frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    bytes: usize,
    payload: u64,
    last: bool,
    reserved: bool,
    opcode: u8,
    masked: bool,
    shortest: bool,
}

impl Header {
    /// `None` while it is not whole.
    fn read(bytes: &[u8]) -> Option<Self> {
        let (&[first, second], rest) = bytes.split_first_chunk()?;
        let masked = second & 0x80 != 0;
        let (length, payload, shortest) = match second & 0x7f {
            126 => {
                let long = u64::from(u16::from_be_bytes(*rest.first_chunk()?));
                (2, long, long > 125)
            }
            127 => {
                let long = u64::from_be_bytes(*rest.first_chunk()?);
                (8, long, long > 0xffff && long >> 63 == 0)
            }
            short => (0, u64::from(short), true),
        };
        let header = Self {
            bytes: 2 + length + if masked { 4 } else { 0 },
            payload,
            last: first & 0x80 != 0,
            reserved: first & 0x70 != 0,
            opcode: first & 0x0f,
            masked,
            shortest,
        };
        (bytes.len() >= header.bytes).then_some(header)
    }

    const fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }
}

/// Where the first frame boundary at or behind `from` is, when `left` bytes of payload stand at the start of `bytes`; `None` where it
/// has not come yet.
pub fn boundary(bytes: &[u8], left: u64, from: usize) -> Option<usize> {
    let mut at = usize::try_from(left).ok()?;
    while at < from {
        let header = Header::read(bytes.get(at..)?)?;
        at = at.checked_add(header.bytes)?.checked_add(usize::try_from(header.payload).ok()?)?;
    }
    (at <= bytes.len()).then_some(at)
}

/// Follows the frames of one direction.
#[derive(Clone, Debug)]
pub struct Frames {
    sender: Sender,
    extended: bool,
    /// Payload of the current frame that has not come.
    left: u64,
    in_message: bool,
    closing: bool,
}

impl Frames {
    /// `extended`: an extension was agreed on, which may use the reserved bits.
    pub const fn new(sender: Sender, extended: bool) -> Self {
        Self { sender, extended, left: 0, in_message: false, closing: false }
    }

    /// How many of `bytes`, which follow those that went on before, may go on. All that come behind a Close go nowhere.
    ///
    /// # Errors
    /// What is wrong with the frame that begins here, once everything before it has gone on.
    pub fn follow(&mut self, bytes: &[u8]) -> Result<usize, Fault> {
        let mut passed = 0;
        loop {
            let rest = bytes.get(passed..).unwrap_or_default();
            let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
            self.left -= most as u64;
            passed += most;
            let Some(header) = rest.get(most..).filter(|_| !self.closed()).and_then(Header::read) else { return Ok(passed) };
            match self.check(&header) {
                Err(_) if passed > 0 => return Ok(passed),
                Err(fault) => return Err(fault),
                Ok(()) => {}
            }
            if !header.is_control() {
                self.in_message = !header.last;
            }
            self.closing |= header.opcode == CLOSE;
            self.left = header.payload;
            passed += header.bytes;
        }
    }

    /// Payload of the current frame that has not come; 0 on a boundary.
    pub const fn left(&self) -> u64 {
        self.left
    }

    /// Whether a Close has gone on to its end.
    pub const fn closed(&self) -> bool {
        self.closing && self.left == 0
    }

    fn check(&self, header: &Header) -> Result<(), Fault> {
        match self.sender {
            Sender::Client if !header.masked => return Err(Fault::Unmasked),
            Sender::Server if header.masked => return Err(Fault::Masked),
            Sender::Client | Sender::Server => {}
        }
        if header.reserved && !self.extended {
            return Err(Fault::ReservedBit);
        }
        if !matches!(header.opcode, 0..=2 | 8..=10) {
            return Err(Fault::Opcode);
        }
        if header.is_control() && (!header.last || header.payload > 125) {
            return Err(Fault::Control);
        }
        if !header.is_control() && self.in_message != (header.opcode == CONTINUATION) {
            return Err(Fault::Sequence);
        }
        if header.shortest { Ok(()) } else { Err(Fault::Length) }
    }
}

/// A Close that the gate says; `mask` where it stands for the client.
pub fn close(code: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    let reason = reason.as_bytes().get(..123).unwrap_or(reason.as_bytes());
    let payload = code.to_be_bytes().into_iter().chain(reason.iter().copied());
    let length = u8::try_from(2 + reason.len()).unwrap_or(125);
    let mut frame = vec![0x80 | CLOSE, length];
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            if let Some(second) = frame.get_mut(1) {
                *second |= 0x80;
            }
            frame.extend(mask);
            frame.extend(payload.zip(mask.into_iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client or a server sends it, with a payload of zeros.
    fn frame(first: u8, masked: bool, length: usize) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut bytes = vec![first];
        match length {
            0..=125 => bytes.push(mask | u8::try_from(length).unwrap()),
            126..=0xffff => {
                bytes.push(mask | 126);
                bytes.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((length as u64).to_be_bytes());
            }
        }
        if masked {
            bytes.extend([1, 2, 3, 4]);
        }
        bytes.resize(bytes.len() + length, 0);
        bytes
    }

    /// Feeds bytes in pieces, keeping what was held back, as the pump does.
    fn feed(frames: &mut Frames, bytes: &[u8], piece: usize) -> Result<usize, Fault> {
        let (mut held, mut passed) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            held.extend_from_slice(piece);
            loop {
                let went = frames.follow(&held)?;
                held.drain(..went);
                passed += went;
                if went == 0 || held.is_empty() {
                    break;
                }
            }
        }
        Ok(passed)
    }

    #[test]
    fn frames_of_every_length_go_on_however_they_are_cut() {
        let lengths = [0, 1, 125, 126, 65_535, 65_536, 70_000];
        let bytes: Vec<u8> = lengths.iter().flat_map(|length| frame(0x82, true, *length)).collect();
        for piece in [1, 2, 3, 7, 1000, bytes.len()] {
            let mut frames = Frames::new(Sender::Client, false);
            assert_eq!(feed(&mut frames, &bytes, piece), Ok(bytes.len()), "in pieces of {piece}");
            assert!(frames.left() == 0 && !frames.closed());
        }
    }

    #[test]
    fn a_header_goes_on_whole_or_not_at_all() {
        let bytes = frame(0x82, true, 70_000);
        let mut frames = Frames::new(Sender::Client, false);
        for short in 0..LONGEST_HEADER {
            assert_eq!(frames.follow(&bytes[..short]), Ok(0));
        }
        assert_eq!(frames.follow(&bytes[..LONGEST_HEADER]), Ok(LONGEST_HEADER));
        assert_eq!(frames.left(), 70_000);
    }

    #[test]
    fn what_breaks_the_protocol_is_found_on_a_boundary() {
        let client = |first, length| frame(first, true, length);
        let long = |length: u64, size: u8| {
            let mut bytes = vec![0x82, 0x80 | size];
            bytes.extend(if size == 126 { length.to_be_bytes()[6..].to_vec() } else { length.to_be_bytes().to_vec() });
            bytes.extend([0; 4]);
            bytes
        };
        let cases = [
            (frame(0x81, false, 3), Fault::Unmasked),
            (client(0xc1, 3), Fault::ReservedBit),
            (client(0xa1, 3), Fault::ReservedBit),
            (client(0x83, 3), Fault::Opcode),
            (client(0x8b, 3), Fault::Opcode),
            (client(0x09, 3), Fault::Control),
            (client(0x88, 126), Fault::Control),
            (client(0x80, 3), Fault::Sequence),
            ([client(0x01, 3), client(0x81, 3)].concat(), Fault::Sequence),
            (long(125, 126), Fault::Length),
            (long(65_535, 127), Fault::Length),
            (long(1 << 63, 127), Fault::Length),
        ];
        for (bytes, fault) in cases {
            let good = client(0x82, 5);
            let whole = [good.clone(), bytes.clone()].concat();
            assert_eq!(feed(&mut Frames::new(Sender::Client, false), &whole, 1), Err(fault), "{fault}");
            assert_eq!(feed(&mut Frames::new(Sender::Client, false), &whole, whole.len()), Err(fault), "{fault}");
            let mut frames = Frames::new(Sender::Client, false);
            assert!(frames.follow(&whole).unwrap() >= good.len(), "what came before it goes on: {fault}");
        }
        assert_eq!(Frames::new(Sender::Server, false).follow(&client(0x81, 3)), Err(Fault::Masked));
        assert!(Frames::new(Sender::Server, true).follow(&frame(0xc1, false, 3)).is_ok(), "an extension may use the bits");
    }

    #[test]
    fn control_frames_may_stand_within_a_message_and_nothing_goes_on_behind_a_close() {
        let message = [frame(0x01, true, 3), frame(0x89, true, 4), frame(0x00, true, 3), frame(0x80, true, 1)].concat();
        let whole = [message, frame(0x88, true, 2)].concat();
        let mut frames = Frames::new(Sender::Client, false);
        assert_eq!(frames.follow(&[whole.clone(), frame(0x81, true, 9)].concat()), Ok(whole.len()));
        assert!(frames.closed());
        assert_eq!(frames.follow(b"anything"), Ok(0));
    }

    #[test]
    fn the_next_boundary_is_where_a_close_may_stand() {
        let bytes = [vec![0; 5], frame(0x82, true, 10), frame(0x82, true, 100)].concat();
        let second = 5 + 16;
        assert_eq!(boundary(&bytes, 5, 0), Some(5));
        assert_eq!(boundary(&bytes, 5, 5), Some(5));
        assert_eq!(boundary(&bytes, 5, 6), Some(second));
        assert_eq!(boundary(&bytes, 5, second), Some(second));
        assert_eq!(boundary(&bytes, 5, second + 1), Some(bytes.len()));
        assert_eq!(boundary(&bytes[..40], 5, second + 1), None, "the rest has not come");
        assert_eq!(boundary(&bytes, u64::MAX, 0), None);
        assert_eq!(boundary(&[], 0, 0), Some(0));
    }

    #[test]
    fn a_close_is_a_frame_its_reader_accepts() {
        let plain = close(POLICY_VIOLATION, "cut", None);
        assert_eq!(plain, [0x88, 5, 0x03, 0xf0, b'c', b'u', b't']);
        let masked = close(POLICY_VIOLATION, "cut", Some([1, 2, 3, 4]));
        assert_eq!(masked, [0x88, 0x85, 1, 2, 3, 4, 0x03 ^ 1, 0xf0 ^ 2, b'c' ^ 3, b'u' ^ 4, b't' ^ 1]);
        let mut frames = Frames::new(Sender::Client, false);
        assert_eq!(frames.follow(&masked), Ok(masked.len()));
        assert!(frames.closed());
    }
}
