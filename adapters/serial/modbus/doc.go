// Package modbus is a Modbus RTU master without a port: requests and answers as
// bytes, register maps that become JSON objects, a schedule that polls several
// slaves on one line, and writes that come as downlinks. The port's owner gives
// it a [Line].
//
// The sources are the Modbus Application Protocol Specification V1.1b3 ("MAP")
// and Modbus over Serial Line V1.02 ("MSL"). Addresses are those of the protocol,
// which count from 0: what a manual calls register 40001 is function 3, address
// 0, and 30001 is function 4, address 0.
//
// An answer names its slave and function, but not the address it is of. So an
// answer that comes after its time-out could be taken for that of the next
// request to the same slave: after a time-out that slave is asked the same again,
// and then nothing for two time-outs, in which what comes is dropped. A slave that
// takes longer than twice its time-out needs a longer one.
//
// Values keep every digit: integers are exact up to 64 bits, and a scale is
// applied in decimal, so that 2305 with scale 0.1 is 230.5. A float is taken for
// the shortest decimal that stands for it. NaN and infinities, which JSON does
// not have, become null. A register's unit stays out of the object: the key is
// the register's name and nothing else.
package modbus
