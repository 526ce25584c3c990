//! Checksums of frames that a program captures and sends again.
//!
//! Devices within one machine leave the checksums of TCP and UDP to hardware, and there is none. A
//! frame captured from such a device therefore has only a part of its checksum, and a receiver that
//! gets the frame from a program rather than the device verifies it: RFC 1071, over the
//! pseudo-header of RFC 793.

const ETHERNET_HEADER: usize = 14;
const IPV4: [u8; 2] = [0x08, 0x00];
const TCP: u8 = 6;
const UDP: u8 = 17;

/// Writes the checksum of the TCP segment or UDP datagram that an Ethernet frame contains whole.
/// Fragments already have theirs.
pub(super) fn complete(frame: &mut [u8]) {
    if frame.get(12..ETHERNET_HEADER) != Some(&IPV4) {
        return;
    }
    let packet = &mut frame[ETHERNET_HEADER..];
    let Some(&[first, _, ..]) = packet.first_chunk::<20>() else { return };
    let (version, header) = (first >> 4, usize::from(first & 0xf) * 4);
    let [total, fragment] = [2, 6].map(|at| u16::from_be_bytes([packet[at], packet[at + 1]]));
    if version != 4 || header < 20 || fragment & 0x3fff != 0 {
        return;
    }
    let protocol = packet[9];
    let at = match protocol {
        TCP => 16,
        UDP => 6,
        _ => return,
    };
    let mut sum = words(&packet[12..20]) + u64::from(protocol);
    let Some(segment) = packet.get_mut(header..usize::from(total)) else { return };
    let is_without = protocol == UDP && segment.get(at..at + 2) == Some(&[0, 0]);
    if segment.len() < at + 2 || is_without {
        return;
    }
    segment[at..at + 2].fill(0);
    sum += segment.len() as u64 + words(segment);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let [.., high, low] = (!sum).to_be_bytes();
    // In UDP, zero means that there is no checksum; all ones have the same value.
    let is_zero = [high, low] == [0, 0] && protocol == UDP;
    let checksum = if is_zero { [0xff, 0xff] } else { [high, low] };
    segment[at..at + 2].copy_from_slice(&checksum);
}

/// The sum of the 16-bit words.
fn words(bytes: &[u8]) -> u64 {
    let pairs = bytes.chunks(2);
    pairs.map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

#[cfg(test)]
mod tests {
    use super::complete;

    /// A frame from 10.10.1.1 to 10.10.1.2 around a segment.
    fn frame(protocol: u8, fragment: u8, segment: &[u8]) -> Vec<u8> {
        let total = u8::try_from(20 + segment.len()).expect("a short one");
        let mut frame = vec![2; 12];
        frame.extend([0x08, 0, 0x45, 0, 0, total, 0, 1, fragment, 0, 64, protocol, 0, 0]);
        frame.extend([10, 10, 1, 1, 10, 10, 1, 2]);
        frame.extend(segment);
        // Ethernet pads short packets, and the padding is not part of the packet.
        frame.extend([0xee; 5]);
        frame
    }

    /// The checksum in a frame whose segment has it at `at`.
    fn checksum(frame: &[u8], at: usize) -> [u8; 2] {
        [frame[34 + at], frame[34 + at + 1]]
    }

    const DATAGRAM: [u8; 13] = [0x12, 0x34, 0, 80, 0, 13, 0xab, 0xcd, b'h', b'e', b'l', b'l', b'o'];

    #[test]
    fn tcp_and_udp_get_the_checksum_of_what_they_hold() {
        let mut udp = frame(17, 0, &DATAGRAM);
        complete(&mut udp);
        assert_eq!(checksum(&udp, 6), [0x93, 0x67]);
        let segment = [
            0x12, 0x34, 0, 80, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0x03, 0xe8, 1, 2, 0, 0, b'G',
            b'E', b'T',
        ];
        let mut tcp = frame(6, 0, &segment);
        complete(&mut tcp);
        assert_eq!(checksum(&tcp, 16), [0xe7, 0xfe]);
        let again = tcp.clone();
        complete(&mut tcp);
        assert_eq!(tcp, again, "what is right stays as it is");
    }

    #[test]
    fn what_has_none_or_is_a_part_stays_as_it_is() {
        let mut without = DATAGRAM;
        without[6..8].fill(0);
        let lying = {
            let mut frame = frame(17, 0, &DATAGRAM);
            frame[17] = 200;
            frame
        };
        let ping = frame(1, 0, &[8, 0, 0xf7, 0xff, 0, 0, 0, 0]);
        let all = [frame(17, 0, &without), frame(17, 0x20, &DATAGRAM), lying, ping];
        for mut frame in all.into_iter().chain([vec![0; 9], vec![8; 14], Vec::new()]) {
            let before = frame.clone();
            complete(&mut frame);
            assert_eq!(frame, before);
        }
        for length in 0..47 {
            complete(&mut frame(17, 0, &DATAGRAM)[..length]);
        }
    }
}
