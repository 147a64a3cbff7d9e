// The noise of a seed: the numbers of torch.randn(width, generator=torch.Generator().manual_seed(seed)) on a CPU.

export const LARGEST_SEED = 2 ** 32 - 1;

/** mt19937 (Matsumoto & Nishimura 1998): whole numbers in [0, 2^32). */
class MersenneTwister {
  constructor(seed) {
    const state = new Uint32Array(624);
    state[0] = seed;
    for (let i = 1; i < 624; i++) {
      state[i] = Math.imul(1812433253, state[i - 1] ^ (state[i - 1] >>> 30)) + i;
    }
    this.state = state;
    this.used = 624;
  }

  next() {
    if (this.used === 624) this.twist();
    let y = this.state[this.used++];
    y ^= y >>> 11;
    y ^= (y << 7) & 0x9d2c5680;
    y ^= (y << 15) & 0xefc60000;
    return (y ^ (y >>> 18)) >>> 0;
  }

  twist() {
    const state = this.state;
    for (let i = 0; i < 624; i++) {
      const y = (state[i] & 0x80000000) | (state[(i + 1) % 624] & 0x7fffffff);
      state[i] = state[(i + 397) % 624] ^ (y >>> 1) ^ (y & 1 ? 0x9908b0df : 0);
    }
    this.used = 0;
  }

  /** Uniform in [0, 1), of 24 bits. */
  single() {
    return (this.next() & 0xffffff) / 2 ** 24;
  }

  /** Uniform in [0, 1), of 53 bits. */
  double() {
    const high = this.next();
    return ((high & 0x1fffff) * 2 ** 32 + this.next()) / 2 ** 53;
  }
}

/** Normal numbers, Float32Array [width]. seed: a whole number in [0, 2^32). Both ways are Box & Muller's (1958). */
export function noiseOfSeed(seed, width) {
  const random = new MersenneTwister(seed);
  const noise = new Float32Array(width);
  if (width < 16) {
    // torch draws few numbers one after the other, each pair of two doubles.
    for (let i = 0; i < width; i += 2) {
      const angle = 2 * Math.PI * random.double();
      const radius = Math.sqrt(-2 * Math.log1p(-random.double()));
      noise[i] = radius * Math.cos(angle);
      if (i + 1 < width) noise[i + 1] = radius * Math.sin(angle);
    }
    return noise;
  }
  // Sixteen at once: the first eight uniform numbers are radii, the others angles. The last sixteen overlap.
  for (let i = 0; i < width; i++) noise[i] = random.single();
  for (let start = 0; start + 16 <= width; start += 16) sixteen(noise.subarray(start, start + 16));
  if (width % 16) {
    const last = noise.subarray(width - 16);
    for (let i = 0; i < 16; i++) last[i] = random.single();
    sixteen(last);
  }
  return noise;
}

function sixteen(numbers) {
  for (let i = 0; i < 8; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - numbers[i]));
    const angle = 2 * Math.PI * numbers[i + 8];
    numbers[i] = radius * Math.cos(angle);
    numbers[i + 8] = radius * Math.sin(angle);
  }
}
