//! How messages become bytes: as tonic does it, with buffers that begin small. A session lasts for months and says a few dozen bytes every ten seconds;
//! tonic's own buffers would be 16 kB of every node, at both ends.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes that a buffer begins with: a heartbeat and what surrounds it. It grows with what is said.
const BEGINS_WITH: usize = 512;
/// Bytes after which what waits is handed to the connection, as in tonic.
const HANDED_ON_AT: usize = 32 << 10;

/// Of messages of two types, one each way.
#[derive(Debug)]
pub struct Codec<T, U> {
    types: PhantomData<(T, U)>,
}

impl<T, U> Default for Codec<T, U> {
    fn default() -> Codec<T, U> {
        Codec { types: PhantomData }
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> ProstEncoder<T> {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BEGINS_WITH, HANDED_ON_AT))
    }

    fn decoder(&mut self) -> ProstDecoder<U> {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BEGINS_WITH, HANDED_ON_AT))
    }
}
