package modbus

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
)

// decimal is coef × 10^exp, exactly. It is not changed once made.
type decimal struct {
	coef *big.Int
	exp  int
}

// Bounds of decimals that people write, so that no text makes a number that
// fills the memory.
const (
	maxDigits   = 64
	maxExponent = 400
)

var errDecimal = errors.New("not a decimal number such as 0.1, -5 or 1e-3")

// parseDecimal reads an integer or a decimal fraction, with an exponent or
// without.
func parseDecimal(s string) (decimal, error) {
	mantissa, exponent := s, 0
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		n, err := strconv.Atoi(s[i+1:])
		if err != nil || n > maxExponent || n < -maxExponent {
			return decimal{}, errDecimal
		}
		mantissa, exponent = s[:i], n
	}
	whole, fraction, point := strings.Cut(mantissa, ".")
	unsigned := strings.TrimLeft(whole, "+-")
	digits := unsigned + fraction
	if len(whole)-len(unsigned) > 1 || unsigned == "" || (point && fraction == "") ||
		len(digits) > maxDigits || strings.Trim(digits, "0123456789") != "" {
		return decimal{}, errDecimal
	}
	coef, ok := new(big.Int).SetString(digits, 10)
	if !ok {
		return decimal{}, errDecimal
	}
	if whole[0] == '-' {
		coef.Neg(coef)
	}
	return decimal{coef: coef, exp: exponent - len(fraction)}, nil
}

func (d decimal) times(o decimal) decimal {
	return decimal{coef: new(big.Int).Mul(d.coef, o.coef), exp: d.exp + o.exp}
}

func (d decimal) plus(o decimal) decimal {
	if d.coef.Sign() == 0 {
		return o
	}
	if o.coef.Sign() == 0 {
		return d
	}
	exp := min(d.exp, o.exp)
	return decimal{coef: new(big.Int).Add(d.at(exp), o.at(exp)), exp: exp}
}

// at is the coefficient for an exponent not above d's.
func (d decimal) at(exp int) *big.Int { return new(big.Int).Mul(d.coef, power(d.exp-exp)) }

func power(n int) *big.Int { return new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(n)), nil) }

// rat is d as a fraction.
func (d decimal) rat() *big.Rat {
	if d.exp >= 0 {
		return new(big.Rat).SetInt(d.at(0))
	}
	return new(big.Rat).SetFrac(d.coef, power(-d.exp))
}

// Where numbers are written with an exponent: as encoding/json does.
const (
	maxPlain     = 21 // digits before the point
	maxLeadZeros = 5  // zeros behind the point
)

// String is the number as JSON has it, without needless zeros.
func (d decimal) String() string {
	if d.coef.Sign() == 0 {
		return "0"
	}
	digits := new(big.Int).Abs(d.coef).String()
	trimmed := strings.TrimRight(digits, "0")
	exp := d.exp + len(digits) - len(trimmed)
	digits = trimmed
	sign := ""
	if d.coef.Sign() < 0 {
		sign = "-"
	}
	point := len(digits) + exp // where the decimal point is, counted from the first digit
	switch {
	case point > maxPlain || point < -maxLeadZeros:
		if len(digits) > 1 {
			digits = digits[:1] + "." + digits[1:]
		}
		return sign + digits + "e" + strconv.Itoa(point-1)
	case exp >= 0:
		return sign + digits + strings.Repeat("0", exp)
	case point > 0:
		return sign + digits[:point] + "." + digits[point:]
	default:
		return sign + "0." + strings.Repeat("0", -point) + digits
	}
}
