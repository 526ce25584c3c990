//! Messages on a connection: a length of four bytes, then that many bytes of JSON. A message longer
//! than allowed ends the connection, so that a browser or a scanner that happens to connect to this
//! port is not mistaken for a peer.

use std::io;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::SILENCE;

/// Size limit of all messages but orders, progress and results.
pub(super) const SMALL: usize = 4096;
/// Size limit of an order, which contains all pictures of a workload.
pub(super) const ORDER: usize = 256 << 20;
/// Size limit of the results of a run.
pub(super) const RESULT: usize = 64 << 20;

/// The next message, of at most `limit` bytes; `None` if the other side hung up between messages.
pub(super) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    limit: usize,
) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match timeout(SILENCE, stream.read_exact(&mut length)).await? {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = u32::from_be_bytes(length) as usize;
    if length > limit {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what it says is no message"));
    }
    // Memory is allocated as bytes arrive, not as announced.
    let mut bytes = Vec::new();
    let mut body = stream.take(length as u64);
    loop {
        let count = timeout(SILENCE, body.read_buf(&mut bytes)).await??;
        if bytes.len() == length {
            break;
        }
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from)
}

/// Sends a message in pieces. The other side must accept each piece within [`SILENCE`].
pub(super) async fn write<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> io::Result<()> {
    const PIECE: usize = 64 << 10;
    let body = serde_json::to_vec(message)?;
    let length = u32::try_from(body.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too much for one message"))?;
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend(body);
    for piece in bytes.chunks(PIECE) {
        timeout(SILENCE, stream.write_all(piece)).await??;
    }
    timeout(SILENCE, stream.flush()).await?
}

#[cfg(test)]
mod tests {
    use super::{SMALL, read, write};

    #[tokio::test]
    async fn a_message_arrives_whole_and_the_end_is_an_end() {
        let (mut one, mut other) = tokio::io::duplex(7);
        let long = vec!["x".repeat(100); 10];
        let sent = async {
            write(&mut one, &long).await.unwrap();
            drop(one);
        };
        let come = async {
            let first: Option<Vec<String>> = read(&mut other, SMALL).await.unwrap();
            (first, read::<Vec<String>>(&mut other, SMALL).await.unwrap())
        };
        let ((), (first, second)) = tokio::join!(sent, come);
        assert_eq!((first, second), (Some(long.clone()), None));
    }

    #[tokio::test]
    async fn what_is_no_message_is_not_listened_to() {
        for bytes in [&b"POST / HTTP/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b"\0\0\0\x02{]"]
        {
            let mut bytes = bytes;
            assert!(read::<u64>(&mut bytes, SMALL).await.is_err());
        }
        assert!(read::<u64>(&mut &b"\0\0\0\x051"[..], SMALL).await.is_err(), "cut off");
    }

    #[tokio::test(start_paused = true)]
    async fn who_says_half_of_it_is_not_waited_for() {
        use tokio::io::AsyncWriteExt as _;
        let (mut one, mut other) = tokio::io::duplex(64);
        one.write_all(b"\0\0\0\x05 ").await.unwrap();
        assert!(read::<u64>(&mut other, SMALL).await.is_err());
        let (_silent, mut other) = tokio::io::duplex(64);
        assert!(read::<u64>(&mut other, SMALL).await.is_err());
    }
}
