// Every kind of field, by the services of four models: kinds ADDRESS.
package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"os"
	"time"

	"example.org/shop/kinds"
	"example.org/shop/notes"
	"example.org/shop/towers"
	"example.org/shop/weigher"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

var moment = timestamppb.New(time.Date(2024, 5, 6, 7, 8, 9, 500_000_000, time.UTC))

func main() {
	conn, err := grpc.Dial(os.Args[1], grpc.WithInsecure())
	check(err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()

	parameters(ctx, weigher.NewWeigherPredictorClient(conn))
	optional(ctx, notes.NewNotesPredictorClient(conn))
	messages(ctx, kinds.NewKindsPredictorClient(conn))
	tensors(ctx, towers.NewTowersPredictorClient(conn))
}

func parameters(ctx context.Context, client weigher.WeigherPredictorClient) {
	row := &weigher.WeigherRow{Length: proto.Float64(1), Count: proto.Int64(3)}
	plain, err := client.PredictRow(ctx, row)
	check(err)
	fmt.Println("plain:", plain.GetTotal(), plain.GetLabel())
	row.Params = &weigher.WeigherParams{
		Scale: proto.Float64(10), Tags: []string{"x", "y"}, Since: moment,
	}
	given, err := client.PredictRow(ctx, row)
	check(err)
	fmt.Println("given:", given.GetTotal(), given.GetLabel())
}

func optional(ctx context.Context, client notes.NotesPredictorClient) {
	answer, err := client.Predict(ctx, &notes.NotesRequest{
		Size: []float64{1.5, 2},
		Path: []*notes.DoubleArray{{Values: []float64{1, 2.5}}, {IsNull: true}},
	})
	check(err)
	fmt.Printf("optional: %q\n", answer.GetOutput_0())
}

func messages(ctx context.Context, client kinds.KindsPredictorClient) {
	owner, err := structpb.NewValue(map[string]interface{}{
		"id": 7, "seen": "2024-05-06T07:08:09", "tags": []interface{}{"x", "ß"},
	})
	check(err)
	flags, err := structpb.NewValue(map[string]interface{}{"a": true, "b": false})
	check(err)
	answer, err := client.PredictRow(ctx, &kinds.KindsRow{
		At: moment, Raw: []byte{0, 255}, Small: proto.Float32(1.5),
		Path: &kinds.DoubleArray{Values: []float64{1.5, -2}}, Owner: owner, Flags: flags,
	})
	check(err)
	fmt.Println("messages:", answer.GetOutput_0())
}

func tensors(ctx context.Context, client towers.TowersPredictorClient) {
	left := []float32{1, 2, 3, 4, 5, 6, 7, 8}
	right := []float32{1, 2, 3, 4}
	byValues, err := client.Predict(ctx, &towers.TowersRequest{
		Left:  &towers.Float32Tensor{Shape: []int64{2, 4}, Values: left},
		Right: &towers.Float32Tensor{Shape: []int64{2, 2}, Values: right},
	})
	check(err)
	fmt.Println("values:", byValues.GetScore(), byValues.GetHidden().GetShape(), byValues.GetHidden().GetValues())
	byRaw, err := client.Predict(ctx, &towers.TowersRequest{
		Left:  &towers.Float32Tensor{Shape: []int64{2, 4}, Raw: packed(left)},
		Right: &towers.Float32Tensor{Shape: []int64{2, 2}, Raw: packed(right)},
	})
	check(err)
	fmt.Println("raw:", byRaw.GetScore(), byRaw.GetHidden().GetShape(), unpacked(byRaw.GetHidden().GetRaw()))
}

func packed(values []float32) []byte {
	raw := make([]byte, 4*len(values))
	for at, value := range values {
		binary.LittleEndian.PutUint32(raw[4*at:], math.Float32bits(value))
	}
	return raw
}

func unpacked(raw []byte) []float32 {
	values := make([]float32, len(raw)/4)
	for at := range values {
		values[at] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*at:]))
	}
	return values
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
